"use strict";
// One panel a model, each on the neuron it stands at; all move together. No network, no library.
const models = JSON.parse(document.getElementById("neurons-data").textContent);
const search = document.getElementById("search");
const status = document.getElementById("status");
const panels = document.getElementById("models");
const HIDDEN = new Set(["score", "score_token", "score_pair", "score_null"]);

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const visible = (text) => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥");
const shown = (value) => (value === null ? "–" : String(value));
const name = (neuron) => `${neuron.layer}.${neuron.unit}`;

for (const model of models) {
  model.at = 0;
  for (const neuron of model.neurons) {
    const texts = neuron.excerpts.map((e) => e.tokens.map((t) => model.tokens[t]).join(""));
    neuron.text = [neuron.rule, neuron.concept, ...texts].join("\n").toLowerCase();
  }
  model.found = model.neurons;
}

function scale(neuron) {
  const made = element("div", { class: "scale", role: "img" });
  const place = (value) => `left:${50 + 50 * value}%`;
  for (const value of [-1, 0, 1]) {
    made.append(element("i", { style: place(value) }));
    made.append(element("span", { style: place(value) }, String(value)));
  }
  if (neuron.init_score !== null)
    made.append(element("b", { class: "init", style: place(neuron.init_score) }));
  if (neuron.numbers.score !== null)
    made.append(element("b", { style: place(neuron.numbers.score) }));
  made.setAttribute(
    "aria-label",
    `score ${shown(neuron.numbers.score)}, of random init ${shown(neuron.init_score)}`,
  );
  return made;
}

function excerpt(model, neuron, { tokens, values }) {
  const line = element("div", { class: "excerpt" });
  const largest = neuron.numbers.largest || 1;
  tokens.forEach((token, i) => {
    const share = Math.max(-1, Math.min(1, values[i] / largest));
    const colour = share < 0 ? "213,94,0" : "0,114,178";
    const span = element("span", { title: shown(values[i]) }, visible(model.tokens[token]));
    if (share) span.style.background = `rgba(${colour},${(0.1 + 0.6 * Math.abs(share)).toFixed(2)})`;
    line.append(span);
  });
  return line;
}

function chips(model, pairs) {
  const line = element("div", { class: "chips" });
  for (const [token, effect] of pairs)
    line.append(element("span", { title: shown(effect) }, visible(model.tokens[token])));
  return line;
}

function histogram(neuron) {
  const most = Math.max(1, ...neuron.histogram);
  const made = element("div", { class: "histogram", role: "img" });
  made.setAttribute("aria-label", `histogram of positive activations, bins of ${shown(neuron.bin)}`);
  for (const count of neuron.histogram) {
    const height = count ? Math.max(2, (100 * Math.log1p(count)) / Math.log1p(most)) : 0;
    made.append(element("i", { style: `height:${height}%`, title: String(count) }));
  }
  return made;
}

function panel(model) {
  const made = element("article", { class: "neuron", tabindex: "0" });
  const neuron = model.found[model.at];
  if (!neuron) {
    made.append(element("h3", {}, `${model.name}: no shown neuron matches`));
    return made;
  }
  made.append(element("h3", {}, `${model.name}: layer ${neuron.layer}, neuron ${neuron.unit}`));
  made.append(element("p", { class: "rule" }, visible(neuron.rule)));
  const stands =
    neuron.percentile === null
      ? "its score is undefined"
      : `above ${neuron.percentile} % of its layer's neurons`;
  made.append(
    element("div", {}, `score ${shown(neuron.numbers.score)}, ${stands}; grey: random init`),
  );
  made.append(scale(neuron));
  const numbers = element("dl", { class: "numbers" });
  const rows = Object.entries(neuron.numbers).filter(([key]) => !HIDDEN.has(key));
  if (neuron.concept) rows.push([`tells “${neuron.concept}”`, neuron.numbers.concept_area]);
  for (const [key, value] of rows)
    numbers.append(
      element(
        "div",
        {},
        element("dt", {}, key.replaceAll("_", " ")),
        element("dd", {}, shown(value)),
      ),
    );
  made.append(numbers);
  made.append(element("h4", {}, "positive activations, counts on a log scale"), histogram(neuron));
  made.append(element("h4", {}, "raises the logits of"), chips(model, neuron.raised));
  made.append(element("h4", {}, "lowers the logits of"), chips(model, neuron.lowered));
  let group = "";
  for (const one of neuron.excerpts) {
    if (one.group !== group) made.append(element("h4", {}, (group = one.group)));
    made.append(excerpt(model, neuron, one));
  }
  return made;
}

function draw() {
  panels.replaceChildren(...models.map(panel));
  const counts = models.map((m) => `${m.found.length ? m.at + 1 : 0} of ${m.found.length}`);
  status.textContent = `${counts.join(", ")} shown neurons, in random order`;
  const first = models[0].found[models[0].at];
  if (first) history.replaceState(null, "", `#${name(first)}`);
}

function go(by) {
  for (const model of models) {
    const count = model.found.length;
    if (count) model.at = (model.at + by + count) % count;
  }
  draw();
}

function find() {
  const asked = search.value.trim().toLowerCase();
  for (const model of models) {
    const number = /^(\d+\.)?\d+$/.test(asked);
    model.found = model.neurons.filter((neuron) =>
      number
        ? name(neuron) === asked || String(neuron.unit) === asked
        : neuron.text.includes(asked),
    );
    model.at = 0;
  }
  draw();
}

search.addEventListener("input", find);
for (const button of document.querySelectorAll("[data-go]"))
  button.addEventListener("click", () => go(Number(button.dataset.go)));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && search.value) {
    search.value = "";
    find();
  } else if (event.target === search) return;
  else if (event.key === "ArrowRight") go(1);
  else if (event.key === "ArrowLeft") go(-1);
  else if (event.key === "/") {
    event.preventDefault();
    search.focus();
  }
});
const linked = decodeURIComponent(location.hash.slice(1));
for (const model of models) {
  const at = model.neurons.findIndex((neuron) => name(neuron) === linked);
  if (at > 0) model.at = at;
}
draw();
