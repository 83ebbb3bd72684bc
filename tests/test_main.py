"""The commands as a person runs them: processes, exit codes, one sentence for what is wrong."""

import subprocess
import sys
import time
from pathlib import Path

import conftest
import pytest

SMALL = [
  "--config=configs/tiny.py",
  "--config.model.width=16",
  "--config.model.heads=2",
  "--config.model.context=16",
  "--config.data.tokenizer=bytes",
  "--config.optimizer.warmup_steps=2",
  "--config.train.steps=4",
  "--config.train.batch_size=4",
  "--config.train.log_every_steps=1",
  "--config.evaluation.tokens=200",
]


def command(module, *flags, cwd=conftest.ROOT, timeout=100):
  return subprocess.run(
    [sys.executable, "-m", f"crate_jax.{module}", *map(str, flags)],
    cwd=cwd, capture_output=True, text=True, timeout=timeout,
  )  # fmt: skip


def test_train_evaluate_generate(text, tmp_path):
  workdir = f"--workdir={tmp_path / 'run'}"
  trained = command("main", *SMALL, f"--config.data.train={text}", workdir)
  assert trained.returncode == 0, trained.stderr
  assert trained.stderr == ""
  assert "step 4/4  loss" in trained.stdout and "bigram_loss" in trained.stdout
  again = command("main", *SMALL, f"--config.data.train={text}", workdir)
  assert "is finished" in again.stdout

  evaluated = command("evaluate", workdir)
  assert evaluated.returncode == 0, evaluated.stderr
  assert evaluated.stdout.startswith("step 4: ")
  other = tmp_path / "other.txt"
  other.write_text("h\u00e9llo")
  evaluated = command("evaluate", workdir, f"--data={other}")
  assert evaluated.stdout.endswith("6 tokens, 5 bytes\n")  # six bytes, the first one unscored

  generated = command("generate", workdir, "--prompt=the cat", "--length=30", "--temperature=0")
  assert generated.returncode == 0, generated.stderr
  assert generated.stdout.startswith("the cat")


@pytest.mark.parametrize(
  ("flags", "code", "sentence"),
  [
    (["--config=configs/absent.py"], 1, "--config=configs/absent.py: there is no such file."),
    (["--config=setup.cfg"], 1, "--config=setup.cfg is not a config"),
    (["--config=crate_jax/errors.py"], 1, "errors.py is not a config: AttributeError"),
    (["--config=configs/base.py:9L"], 1, "Unknown size '9L'"),
    (["--config=configs/base.py:1L,bert"], 1, "Unknown architecture 'bert'"),
    (["--config.model.lyers=3"], 1, "Unknown config key model.lyers. Did you mean model.layers?"),
    (["--config.modle=3"], 1, "Unknown config key modle. Did you mean model?"),
    (["--config.train.steps=ten"], 2, "--config.train.steps=ten"),
    (["--wrkdir=x"], 2, "Unknown command line flag 'wrkdir'"),
    (["stray"], 2, "Unexpected argument 'stray'"),
    (["--workdir="], 2, "The flag --workdir is required"),
    (["--config.model.heads=3"], 1, "model.heads=3 does not divide model.width=16."),
    (["--config.model.dtype=float64"], 1, "needs the environment variable JAX_ENABLE_X64=1."),
    (["--config.mesh.tensor=3"], 1, "tensor=3) does not fit the 1 devices"),
    (["--config.data.train=no.txt"], 1, "data.train='no.txt': there is no such file or folder."),
    (["--config.data.train=EMPTY"], 1, "is empty: it holds no text."),
    (["--config.data.train=LATIN"], 1, "latin.txt is not UTF-8 text (byte 0xe9 at 3)."),
    (["--config.data.train=SHORT"], 1, "fewer than one window of model.context + 1 = 17."),
  ],
)
def test_one_sentence_says_what_is_wrong(flags, code, sentence, text, tmp_path):
  for name, data in {"EMPTY": b"", "LATIN": b"caf\xe9", "SHORT": b"ten letters"}.items():
    file = tmp_path / f"{name.lower()}.txt"
    file.write_bytes(data)
    flags = [flag.replace(name, str(file)) for flag in flags]
  defaults = [*SMALL, f"--config.data.train={text}", f"--workdir={tmp_path / 'run'}"]
  if flags[0].startswith("--config="):
    defaults = defaults[-1:]
  done = command("main", *defaults, *flags)
  assert done.returncode == code
  assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
  assert sentence in done.stderr
  assert not (tmp_path / "run").exists()  # nothing is left behind


def test_a_validation_text_that_has_changed_is_refused(text, tmp_path):
  workdir = f"--workdir={tmp_path / 'run'}"
  command("main", *SMALL, f"--config.data.train={text}", workdir)
  text.write_text(text.read_text().replace("cat", "cow"))
  done = command("evaluate", workdir)
  assert done.returncode == 1 and "no longer holds the validation text" in done.stderr


def test_a_folder_that_may_not_be_written_is_named(text, tmp_path):
  (tmp_path / "file").write_text("in the way")
  flags = [*SMALL, f"--config.data.train={text}", f"--workdir={tmp_path / 'file' / 'run'}"]
  done = command("main", *flags)
  assert done.returncode == 1 and done.stderr.count("\n") == 1
  assert str(tmp_path / "file") in done.stderr


@pytest.mark.parametrize("module", ["evaluate", "generate"])
def test_a_folder_without_a_run_is_refused(module, tmp_path):
  done = command(module, f"--workdir={tmp_path}")
  assert done.returncode == 1
  assert done.stderr.endswith("holds no checkpoint: it is not the work directory of a run.\n")
  assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["main", "evaluate", "generate"])
def test_help_is_quick_and_shows_an_example(module):
  start = time.monotonic()
  done = command(module, "--help", timeout=20)
  assert done.returncode == 0
  assert f"python -m crate_jax.{module} --" in done.stdout
  assert "--workdir" in done.stdout and "Reads" in done.stdout
  assert time.monotonic() - start < 10  # JAX alone would take longer on a busy machine


def test_importing_the_package_imports_no_jax():
  program = (
    "import sys, crate_jax; print([m for m in ('jax', 'flax', 'orbax') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
  )
  assert done.stdout == "[]\n"


def test_configs_are_found_from_another_folder(tmp_path):
  config = Path(conftest.ROOT, "configs", "tiny.py")
  done = command("main", f"--config={config}", "--config.train.steps=-1", "--workdir=w",
                 cwd=tmp_path)  # fmt: skip
  assert "train.steps=-1 must be at least 1" in done.stderr
