"""The commands as a person runs them: processes, exit codes, one sentence for what is wrong."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import conftest
import pytest

import crate_jax
from crate_jax import Edit
from crate_jax.training import loop

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


def command(module, *flags, cwd=conftest.ROOT, timeout=300):
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

  folder = tmp_path / "run"
  for name in ("loss.png", "result.json", "metrics.jsonl", "tensorboard", "config.json"):
    assert (folder / name).exists(), name
  assert not re.search(r"[^\n\x20-\U0010ffff]", trained.stdout)  # a pipe gets plain lines
  # What it says to type next: sample, score, train the other architecture beside it.
  commands = trained.stdout.partition("\nnext:\n")[2].splitlines()
  assert len(commands) == 3
  for line in commands:
    typed = subprocess.run(
      line.strip(), shell=True, cwd=conftest.ROOT, capture_output=True, text=True, timeout=300
    )
    assert typed.returncode == 0 and typed.stdout, typed.stderr
  assert json.loads((tmp_path / "run-gpt2" / "result.json").read_text())["architecture"] == "gpt2"

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
  more = ("--prompt=the cat", "--prompt=a dog", "--length=30", "--temperature=0")
  first, second = command("generate", workdir, *more).stdout.split(f"\n{'-' * 80}\n")
  assert first + "\n" == generated.stdout and second.startswith("a dog")


@pytest.mark.slow
def test_compile_only_needs_no_text_and_no_folder():
  pytest.importorskip("libtpu", reason="the TPU compiler is the extra tpu_compile")
  done = command("main", "--config=configs/tiny.py", "--compile_only", timeout=450)
  assert (done.returncode, done.stderr) == (0, ""), done.stderr
  assert "4 of v5e:2x2; mesh: data 4" in done.stdout and "of the devices' peak" in done.stdout
  here = command("main", "--config=configs/tiny.py", "--compile_only", "--topology=")
  assert here.returncode == 0 and "1 of cpu; mesh: data 1" in here.stdout, here.stderr
  assert "of the devices' peak" not in here.stdout  # nobody says what a CPU's is
  absent = command("main", "--config=configs/tiny.py", "--compile_only", "--topology=v5e:3x3")
  assert absent.returncode == 1
  assert absent.stderr.startswith("error: --topology=v5e:3x3 is not a TPU slice")
  assert absent.stderr.count("\n") == 1


def test_generate_holds_neurons(small, tmp_path):
  loop.train(small, tmp_path / "run")
  workdir = f"--workdir={tmp_path / 'run'}"
  held = ["--set=1:5=50", "--set=0:3=-1e1"]
  steered = command(
    "generate", workdir, "--prompt=the cat", "--temperature=0", "--length=30", *held
  )
  edits = [Edit("A2", 1, 5, add=50.0), Edit("A2", 0, 3, add=-10.0)]
  run = crate_jax.load(tmp_path / "run")
  assert steered.stdout == run.generate("the cat", 30, temperature=0, edits=edits) + "\n"
  assert steered.stdout != run.generate("the cat", 30, temperature=0) + "\n"
  absent = command("generate", workdir, "--set=7:5=1")
  assert (absent.returncode, absent.stderr) == (
    1, "error: There is no A2 in layer 7: they are in layers 0 to 1.\n"
  )  # fmt: skip
  garbled = command("generate", workdir, "--set=7:5")
  assert garbled.returncode == 2 and "is not LAYER:UNIT=VALUE" in garbled.stderr


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
    (["--topology=v5e:2x2"], 2, "--topology and --num_slices go with --compile_only."),
    (["--num_slices=2"], 2, "--topology and --num_slices go with --compile_only."),
    (["--compile_only", "--topology=", "--num_slices=2"], 2, "--num_slices goes with a --topology"),
    (["--wait_seconds=0"], 2, "--wait_seconds=0"),
    (["--profile=3"], 1, "--profile=3 is not FIRST:COUNT"),
    (["--wrkdir=x"], 2, "Unknown command line flag 'wrkdir'"),
    (["stray"], 2, "Unexpected argument 'stray'"),
    (["--workdir="], 2, "The flag --workdir is required"),
    (["--config.model.heads=3"], 1, "model.heads=3 does not divide model.width=16."),
    (["--config.model.dtype=float64"], 1, "needs the environment variable JAX_ENABLE_X64=1."),
    (["--config.mesh.tensor=3"], 1, "tensor=3) does not fit the 1 devices"),
    (["--config.data.train=no.txt"], 1, "data.train='no.txt': there is no such file or folder."),
    (["--config.data.train=EMPTY"], 1, "is empty: it holds no text."),
    (
      ["--config.data.train=LATIN"],
      1,
      "latin.txt, document 1, is not UTF-8 text (byte 0xe9 at 3)",
    ),
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
def test_a_bare_command_says_what_it_needs(module):
  done = command(module, timeout=180)
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert re.fullmatch(r"error: The flag --\w+ is required; --help shows an example.\n", done.stderr)


@pytest.mark.parametrize("module", ["main", "evaluate", "generate"])
def test_help_is_quick_and_shows_an_example(module):
  start = time.monotonic()
  done = command(module, "--help", timeout=120)
  assert done.returncode == 0
  assert f"python -m crate_jax.{module} --" in done.stdout
  assert "--workdir" in done.stdout and "Reads" in done.stdout
  assert time.monotonic() - start < 10  # JAX alone would take longer on a busy machine


def test_importing_the_package_imports_no_jax():
  program = (
    "import sys, crate_jax; print([m for m in ('jax', 'flax', 'orbax') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=True
  )
  assert done.stdout == "[]\n"


def test_configs_are_found_from_another_folder(tmp_path):
  config = Path(conftest.ROOT, "configs", "tiny.py")
  done = command("main", f"--config={config}", "--config.train.steps=-1", "--workdir=w",
                 cwd=tmp_path)  # fmt: skip
  assert "train.steps=-1 must be at least 1" in done.stderr


def test_a_dry_run_says_everything_and_begins_nothing(text, tmp_path):
  flags = [*SMALL, f"--config.data.train={text}", f"--workdir={tmp_path / 'run'}"]
  done = command("main", *flags, "--dry_run")
  assert done.returncode == 0, done.stderr
  for name in ("architecture", "parameters", "training FLOPs", "memory", "sha256", "time"):
    assert f"\n  {name:<15} " in done.stdout
  assert "step 1/" not in done.stdout and not (tmp_path / "run").exists()


def test_a_terminal_shows_one_progress_line(text, tmp_path):
  flags = [*SMALL, f"--config.data.train={text}", f"--workdir={tmp_path / 'run'}"]
  terminal, inside = pty.openpty()
  fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
  process = subprocess.Popen(
    [sys.executable, "-m", "crate_jax.main", *flags],
    cwd=conftest.ROOT, stdin=inside, stdout=inside, stderr=inside,
  )  # fmt: skip
  os.close(inside)
  output = b""
  try:
    while piece := os.read(terminal, 65536):
      output += piece
  except OSError:  # the other end is closed
    pass
  os.close(terminal)
  assert process.wait(timeout=180) == 0, output
  lines = output.decode().split("\r\n")
  drawn = [line for line in lines if "|" in line and "\r" in line]
  states = [state for line in drawn for state in line.split("\r") if state.strip()]
  # Drawn over from step 0 on, with the loss from the first step and the pace from the second.
  assert states[0].startswith("step 0/4 |") and states[-1].startswith("step 4/4 |")
  assert re.search(r"\| loss \d\.\d{4}  [\d,]+ tokens/s  \w+ left", states[-1])
  assert "grad" not in output.decode()  # the plain lines are not there as well
  (evaluation,) = [line for line in lines if "val_loss" in line and "bits per byte" in line][:1]
  assert evaluation.split("\r")[-1].startswith("step 4  val_loss ")  # on a line of its own
  assert max(len(state) for state in states) < 120  # never wraps


# A shell that starts the tests in the background has their processes ignore Ctrl-C.
HEARS_INTERRUPTS = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("crate_jax.main", run_name="__main__", alter_sys=True)
"""
MOMENTS = [  # when to interrupt: once this exists, in a run of 600 steps with checkpoints
  ("", signal.SIGKILL),  # while it starts
  ("config.json", signal.SIGINT),
  ("metrics.jsonl", signal.SIGKILL),
  ("checkpoints/*.orbax-checkpoint-tmp*", signal.SIGKILL),  # inside a save
  ("checkpoints/200", signal.SIGINT),
  ("checkpoints/400", signal.SIGKILL),
  ("loss.png", signal.SIGKILL),  # before result.json, mostly
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_interrupted_run_goes_on_by_the_same_command(text, tmp_path):
  flags = [
    *SMALL,
    f"--config.data.train={text}",
    "--config.train.steps=600",
    "--config.evaluation.every_steps=150",
    "--config.checkpoint.every_steps=100",
    "--config.checkpoint.keep=10",
  ]
  assert command("main", *flags, f"--workdir={tmp_path / 'straight'}").returncode == 0
  run = tmp_path / "run"
  struck = 0
  for pattern, number in MOMENTS:
    process = subprocess.Popen(
      [sys.executable, "-c", HEARS_INTERRUPTS, *flags, f"--workdir={run}"],
      cwd=conftest.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline, before = time.monotonic() + 100, set(run.glob(pattern)) if pattern else set()
    if not pattern:
      time.sleep(1)
    while pattern and process.poll() is None and time.monotonic() < deadline:
      if set(run.glob(pattern)) - before:
        break
      time.sleep(0.001)
    process.send_signal(number)
    _, error = process.communicate(timeout=180)
    struck += process.returncode in (-signal.SIGKILL, 130)
    assert process.returncode in (-signal.SIGKILL, 130, 0), error
    assert "Traceback" not in error
  assert struck >= 5  # most came before the end
  last = command("main", *flags, f"--workdir={run}")
  assert last.returncode == 0, last.stderr
  results = [json.loads((tmp_path / n / "result.json").read_text()) for n in ("straight", "run")]
  for name in ("steps", "val_loss", "train_loss", "sample", "nonzero", "eta_sigma2"):
    assert results[0][name] == results[1][name], name
  straight, broken = (
    [
      {k: v for k, v in json.loads(line).items() if k != "tokens_per_second"}
      for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()
    ]
    for n in ("straight", "run")
  )
  assert straight == broken


@pytest.mark.parametrize("module", ["main", "evaluate", "generate"])
def test_flags_mean_the_same_everywhere(module):
  meaning = {
    "workdir": "The run's folder",
    "step": "One of its checkpoints; the newest by default.",
  }
  text = " ".join(command(module, "--help", timeout=120).stdout.split())
  for name, words in meaning.items():
    assert f"--{name}: {words}" in text or (module, name) == ("main", "step")
