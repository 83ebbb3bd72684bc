import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import conftest
import exports
import models
import numpy as np
import pytest

import crate_jax
from crate_jax import Edit
from crate_jax.errors import UserError
from crate_jax.evaluation import tasks
from crate_jax.hf import card, exported
from crate_jax.training import loop

FILES = {
  *{"README.md", "config.json", "generation_config.json", "model.safetensors"},
  *{"configuration_crate.py", "modeling_crate.py", "tokenizer.json", "tokenizer_config.json"},
}
A2 = "transformer.h.1.ista.A2"


@pytest.fixture
def folder(tmp_path):
  """An exported model of two layers with a context of 12."""
  exported.write(exports.run(), tmp_path, tmp_path / "exported")
  return tmp_path / "exported"


def torch_model(folder):
  pytest.importorskip("torch")
  from transformers import AutoModelForCausalLM

  return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()


def ids(tokens):
  import torch

  return torch.from_numpy(tokens).long()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  loop.train(conftest.small_config(conftest.write_text(folder / "text.txt")), folder / "run")
  return folder / "run"


def test_the_command_writes_a_model_with_the_runs_numbers(trained, tmp_path):
  def command():
    return subprocess.run(
      [sys.executable, "-m", "crate_jax.hf.export", f"--workdir={trained}", "--out=exported"],
      cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip

  done = command()
  assert done.returncode == 0 and "step 10 of" in done.stdout, done.stderr
  assert {path.name for path in (tmp_path / "exported").iterdir()} == FILES
  assert [path.name for path in tmp_path.iterdir()] == ["exported"]
  text = (tmp_path / "exported" / "README.md").read_text()
  result = json.loads((trained / "result.json").read_text())
  for fact in ("crate: 2 layers of width 16, 2 heads", f"{result['parameters']:,}", "1,280"):
    assert fact in text
  assert str(result["val_loss"]) in text and result["commit"] in text
  refused = command()
  assert refused.returncode == 1
  assert refused.stderr == (
    "error: --out=exported is not empty: name a folder that is not there yet.\n"
  )


def test_a_card_says_that_there_are_no_results(trained, tmp_path):
  run = crate_jax.load(trained, 5)  # the results are those of step 10
  assert "| results | none: the run had no result.json of step 5 when exported |" in card.text(
    run, trained
  )
  shutil.copytree(trained, tmp_path / "copy")
  (tmp_path / "copy" / "result.json").unlink()
  assert "none: the run had no result.json of step 10" in card.text(
    crate_jax.load(tmp_path / "copy"), tmp_path / "copy"
  )


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
  def full(path, value):
    raise OSError("No space left on device")

  monkeypatch.setattr(exported.files, "write_json", full)
  with pytest.raises(OSError, match="No space"):
    exported.write(exports.run(), tmp_path, tmp_path / "a" / "exported")
  assert not list((tmp_path / "a").iterdir())


def test_a_folder_that_holds_something_is_kept(tmp_path):
  (tmp_path / "kept").write_text("x")
  with pytest.raises(UserError, match="is not empty"):
    exported.write(exports.run(), tmp_path, tmp_path)
  with pytest.raises(UserError, match="kept is a file, not a folder"):
    exported.write(exports.run(), tmp_path, tmp_path / "kept")
  assert (tmp_path / "kept").read_text() == "x"
  (tmp_path / "empty").mkdir()
  exported.write(exports.run(), tmp_path, tmp_path / "empty")
  assert {path.name for path in (tmp_path / "empty").iterdir()} == FILES


def test_the_weights_are_the_parameters_in_the_file(folder):
  from safetensors.numpy import load_file

  run, weights = exports.run(), load_file(folder / "model.safetensors")
  dictionary = np.asarray(run.params["blocks"]["features"]["dictionary"])
  np.testing.assert_array_equal(weights["transformer.h.1.ista.weight"], dictionary[1])
  assert "lm_head.weight" not in weights


def test_the_exported_code_needs_nothing_of_this_project(folder):
  for name in exported.CODE:
    code = (folder / name).read_text()
    modules = {m.split(".")[0] for m in re.findall(r"^(?:from|import) ([\w.]+)", code, re.M) if m}
    assert modules <= {"", "typing", "torch", "transformers"}, name


TEXTS = [
  "",
  "the cat sat",
  " a  b\n\n\tc ",
  "naïve 東京 🎉",
  "end<|endoftext|>of",
  "'s don't 12345",
]


@pytest.mark.parametrize("kind", ["bytes", "bpe", "characters"])
def test_the_tokenizer_gives_the_same_ids(tmp_path, kind):
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  text = conftest.write_text(tmp_path / "text.txt").read_text() + "".join(TEXTS)
  run = exports.run(tokenizer=kind, documents=[text], vocab_size=400)
  exported.write(run, tmp_path, tmp_path / "exported")
  tokenizer = transformers.AutoTokenizer.from_pretrained(
    tmp_path / "exported", trust_remote_code=True
  )
  for text in TEXTS:
    got = tokenizer(text)["input_ids"]
    assert got == run.tokenizer.encode(text).tolist(), text
    assert tokenizer.decode(got) == text
  end = run.tokenizer.end_of_text
  special = [tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id]
  assert special == [end] * 3 and end not in tokenizer("<|endoftext|>")["input_ids"]


def test_rows_that_are_no_token_are_never_generated(tmp_path):
  run = exports.run(context=64)
  run.params["norm"]["bias"] = run.params["tokens"][259] * 50  # the likeliest is no token
  exported.write(run, tmp_path, tmp_path / "exported")
  prompt = models.tokens(run.model, rows=1, length=4) % 257
  model = torch_model(tmp_path / "exported")
  assert model(ids(prompt)).logits.argmax(dim=-1)[0, -1] >= 257
  assert model.generate(ids(prompt), max_new_tokens=8, do_sample=False)[0, 4:].max() < 257


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # nnsight's own
def test_nnsight_reads_and_edits_the_neurons(folder):
  nnsight = pytest.importorskip("nnsight")
  run = exports.run()
  tokens = models.tokens(run.model)
  model = nnsight.NNsight(torch_model(folder))
  with model.trace(ids(tokens)):
    codes = model.transformer.h[1].ista.A2.output.save()
  with model.trace(ids(tokens)):
    model.transformer.h[1].ista.A2.output[:] = 0
    logits = model.output.logits.save()
  np.testing.assert_allclose(codes.detach(), run.codes(tokens)[1], rtol=0, atol=1e-5)
  want = run.logits(tokens, edits=[Edit("A2", 1)])
  np.testing.assert_allclose(logits.detach(), want, rtol=0, atol=1e-5)


def test_saelens_reads_the_neurons(folder):
  pytest.importorskip("sae_lens")
  from sae_lens.load_model import HookedProxyLM

  run = exports.run()
  tokens = models.tokens(run.model)
  model = HookedProxyLM(torch_model(folder), tokenizer=None, hook_names=[A2])
  _, cache = model.run_with_cache(ids(tokens), names_filter=[A2])
  np.testing.assert_allclose(cache[A2].detach(), run.codes(tokens)[1], rtol=0, atol=1e-5)


# --- lm-evaluation-harness: the same items, scored by it and by crate_jax.evaluate --------------

HARNESS = {
  "lambada": """
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: loglikelihood
test_split: test
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' '+text.split(' ')[-1]}}"
metric_list: [{metric: perplexity}, {metric: acc}]
""",
  "blimp": """
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: multiple_choice
test_split: test
num_fewshot: 0
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{[sentence_good, sentence_bad]}}"
metric_list: [{metric: acc}]
""",
  "hellaswag": """
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{query}}"
doc_to_target: "{{label}}"
doc_to_choice: choices
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
  "wikitext2": """
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: !function preprocess_wikitext.wikitext_detokenizer
process_results: !function preprocess_wikitext.process_results
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
}
ITEMS = {"lambada": 40, "blimp": 40, "hellaswag": 20, "wikitext2": 2}
NAMES = {"acc": "accuracy", "acc_norm": "accuracy_norm"}  # ours of its metrics, where they differ


def harness_file(task, data, folder):
  """The items as JSON lines for the harness, read here and not by crate_jax."""
  file = folder / f"{task}.jsonl"
  if task == "lambada":
    return data / "lambada" / "lambada_test.jsonl"
  if task == "blimp":
    return folder / "blimp" / "regular_plural_subject_verb_agreement_1.jsonl"
  if task == "hellaswag":
    lines = (data / "hellaswag" / "hellaswag_val_full.txt").read_text().splitlines()
    items = [
      {"query": lines[i].strip(), "label": int(lines[i + 1]), "choices": lines[i + 2 : i + 6]}
      for i in range(0, 6 * ITEMS[task], 6)
    ]
  else:
    text = (data / "wikitext-2" / "test.txt").read_text()
    pages = re.split(r"(?m)^(?= = [^=\n]*[^=\s] = ?$)", text)
    items = [{"page": page.removesuffix("\n")} for page in pages if page.strip()]
  file.write_text("".join(json.dumps(item) + "\n" for item in items))
  return file


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the harness's and its many libraries' own
@pytest.mark.parametrize("task", HARNESS)
def test_lm_evaluation_harness_agrees(shared_data, tmp_path, task):
  lm_eval = pytest.importorskip("lm_eval")
  run = exports.run(context=256, width=32)
  exported.write(run, tmp_path, tmp_path / "exported")
  name = "regular_plural_subject_verb_agreement_1.jsonl"
  (tmp_path / "blimp").mkdir()
  shutil.copy(shared_data / "blimp" / name, tmp_path / "blimp")
  yaml = tmp_path / "tasks"
  yaml.mkdir()
  file = harness_file(task, shared_data, tmp_path)
  (yaml / f"{task}.yaml").write_text(
    f"task: crate_{task}" + HARNESS[task].replace("FILE", str(file))
  )
  wikitext = Path(lm_eval.__file__).parent / "tasks" / "wikitext" / "preprocess_wikitext.py"
  shutil.copy(wikitext, yaml)
  theirs = lm_eval.simple_evaluate(
    model="hf",
    model_args=f"pretrained={tmp_path / 'exported'},trust_remote_code=True,dtype=float32",
    tasks=[f"crate_{task}"],
    task_manager=lm_eval.tasks.TaskManager(include_path=str(yaml), include_defaults=False),
    limit=ITEMS[task],
    device="cpu",
    batch_size=8,
    bootstrap_iters=0,
  )
  scored = []

  def score(requests):
    scored.extend(run.likelihoods(requests))
    return scored

  data = tmp_path if task == "blimp" else shared_data
  ours = tasks.evaluate(task, data, run.tokenizer, score, ITEMS[task])
  samples = sorted(theirs["samples"][f"crate_{task}"], key=lambda sample: sample["doc_id"])
  answers = [answer for sample in samples for answer in sample["filtered_resps"]]
  if task == "wikitext2":
    answers = [(nats, True) for nats in answers]
  assert len(answers) == len(scored) > 0
  nats = np.array([float(answer[0]) for answer in answers])
  np.testing.assert_allclose([one.nats for one in scored], nats, rtol=1e-6, atol=1e-3)
  if task != "wikitext2":
    assert [one.greedy for one in scored] == [bool(answer[1]) for answer in answers]
  values, compared = {s.metric: s.value for s in ours if s.task == task}, set()
  print(f"{task}: at most {np.abs([o.nats for o in scored] - nats).max()} nats of {-nats.min()}")
  for key, value in theirs["results"][f"crate_{task}"].items():
    metric, _, kind = key.partition(",")
    mine = values.get(NAMES.get(metric, metric))
    if kind == "none" and mine is not None:
      print(f"  {metric}: {value} there, {mine} here")
      compared.add(metric)
      assert mine == pytest.approx(value, rel=1e-5)
  assert len(compared) == len(values)
