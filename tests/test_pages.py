"""The page of a run's neurons, in a browser."""

import json
import re
import shutil
import subprocess
import sys

import conftest
import planted
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory):
  """The command's own page."""
  _, workdir = finished
  text = planted.works(tmp_path_factory.mktemp("text") / "works.txt")
  out = tmp_path_factory.mktemp("page")
  done = subprocess.run(
    [
      sys.executable, "-m", "crate_jax.interpret.neurons", f"--workdir={workdir}", f"--out={out}",
      f"--data={text}", "--neurons=20", "--shown=3",
    ],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert "mean score" in done.stdout
  return out / "index.html"


def test_the_page_asks_for_nothing_over_the_network(page):
  html = page.read_text("utf-8")
  assert not re.findall(r"(?:src|href|url\()=?[\"']?(?:https?:)?//", html)
  assert (page.parent / "neurons.md").read_text("utf-8").startswith("# Neurons of run")


STEPS = """
<script>
const seen = [];
const look = () => seen.push({
  title: document.querySelector(".neuron h3").textContent,
  rule: (document.querySelector(".rule") || {}).textContent,
  status: document.getElementById("status").textContent,
  shaded: document.querySelectorAll(".excerpt span[style]").length,
  excerpts: document.querySelectorAll(".excerpt").length,
  hash: location.hash,
});
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const type = (text) => { search.value = text; search.dispatchEvent(new Event("input")); };
look();
press("ArrowRight"); look();
press("ArrowLeft"); look();
press("ArrowLeft"); look();
press("/"); seen.push({focused: document.activeElement.id});
type("1."+seen[0].title.match(/neuron (\\d+)/)[1]); look();
type("no such text anywhere"); look();
type(seen[0].rule.slice(0, 12)); look();
press("Escape"); look();
const out = document.createElement("pre"); out.id = "seen"; out.textContent = JSON.stringify(seen);
document.body.append(out);
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_works_from_a_file_and_by_keyboard(page, tmp_path):
  copy = tmp_path / "page.html"
  copy.write_text(page.read_text("utf-8").replace("</body>", STEPS + "</body>"), "utf-8")
  flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
  flags += " --disable-component-update --disable-sync --disable-quic --dump-dom"
  done = subprocess.run(
    [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", copy.as_uri()],
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
  assert found, done.stderr[-2000:]
  seen = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
  start, right, back, left, focused, number, nothing, by_text, cleared = seen
  assert "1 of 6 shown neurons" in start["status"]
  assert "2 of 6" in right["status"]
  assert right["title"] != start["title"]
  assert back == start
  assert "6 of 6" in left["status"]
  assert start["excerpts"] > 0
  assert start["hash"].startswith("#")
  assert max(x["shaded"] for x in (start, right, left)) > 0
  assert focused == {"focused": "search"}
  assert "of" in number["status"]
  assert "no shown neuron matches" in nothing["title"]
  assert nothing["status"].startswith("0 of 0")
  assert start["rule"][:12] in by_text["rule"]
  assert "of 6 shown" in cleared["status"]
