"""README.md as a stranger reads it: its commands run and print what it says.

A block behind `<!-- runnable -->` is run, in a copy of the repository. So is the one behind
`<!-- runnable: slow -->` with --slow; without, a short run stands for it. A block behind
`<!-- output -->` is what the block before it prints: numbers may differ, words may not, and a line
of dots stands for any lines.
"""

import dataclasses
import os
import re
import shutil
import subprocess
import sys

import conftest
import pytest

README = (conftest.ROOT / "README.md").read_text()
SHORT = """.venv/bin/python -m crate_jax.main --config=configs/tiny.py --workdir=runs/tiny \
--config.train.steps=6 --config.optimizer.warmup_steps=2 --config.train.log_every_steps=2 \
--config.evaluation.every_steps=3 --config.evaluation.tokens=1000"""


@dataclasses.dataclass
class Block:
  """A marked block."""

  mark: str
  language: str
  text: str


def blocks():
  pattern = r"<!-- (runnable(?:: slow)?|output) -->\n```(\w*)\n(.*?)```\n"
  return [Block(*found) for found in re.findall(pattern, README, re.DOTALL)]


def masked(text):
  """The words alone."""
  text = re.sub(r"\([\w-]+, \d+ cores\)", "(CPU)", text)
  text = re.sub(r"\b[0-9a-f]{12}\b", "HASH", text)
  text = re.sub(r"\b\d+h\d\dm|\b\d+m\d\ds|\b\d+s\b", "TIME", text)
  text = re.sub(r"\(val_loss is (\S+) (above|below)\)", r"(val_loss is \1 away)", text)
  text = re.sub(r"^  \| .*", "  | SAMPLE", text, flags=re.MULTILINE)
  return re.sub(r"\d[\d,.]*(e[+-]\d+)?", "#", text)


def shown(block, printed):
  """Whether what was printed holds the block's lines, one after the other."""
  parts = [re.escape(masked(part.strip("\n"))) for part in re.split(r"^\.\.\.$", block, flags=re.M)]
  return re.search(r"^" + r"\n(?:.*\n)*?".join(parts) + r"$", masked(printed), re.MULTILINE)


def run(block, folder, environment):
  command = ["bash", "-euc", block.text]
  if block.language == "python":
    command = [".venv/bin/python", "-W", "error", "-c", block.text]
  done = subprocess.run(
    command, cwd=folder, capture_output=True, text=True, timeout=3000, env=environment
  )
  assert done.returncode == 0, (block.text, done.stdout, done.stderr)
  return done.stdout


@pytest.fixture
def copy(tmp_path):
  """The repository's files as they are, in a folder of their own, and an environment for them."""
  names = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  if names.returncode:
    pytest.skip("not a git checkout")
  folder = tmp_path / "crate_jax"
  for name in names.stdout.split("\n"):
    if name and (conftest.ROOT / name).is_file():
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(conftest.ROOT / name, folder / name)
  # Without the tests' XLA_FLAGS, which would make the long run longer.
  kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
  return folder, kept | {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def check(folder, environment, slow=True):
  """Runs every block, except the slow one if a short run stands for it, and compares outputs."""
  printed, comparing = "", True
  for block in blocks():
    if block.mark == "output":
      if comparing:
        assert shown(block.text, printed), f"not printed:\n{block.text}\nbut:\n{printed}"
    elif block.mark == "runnable: slow" and not slow:
      comparing = False  # a short run prints fewer lines than the README shows
    else:
      printed, comparing = run(block, folder, environment), True


def test_the_readmes_commands_print_what_it_says_after_a_short_run(copy):
  folder, environment = copy
  (folder / ".venv").symlink_to(sys.prefix)
  run(Block("", "", SHORT), folder, environment)
  check(folder, environment, slow=False)


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_the_readme_word_for_word(copy):
  check(*copy)


def test_the_readme_marks_what_it_should():
  marks = [block.mark for block in blocks()]
  assert marks.count("runnable: slow") == 1 and marks.count("runnable") >= 3
  assert marks.count("output") >= 4


def test_output_is_compared_word_by_word():
  assert shown("step 10  loss 4.5\n...\nend 3m05s\n", "step 9  loss 4.61\na\nb\nend 12s\n")
  assert not shown("step 10  loss 4.5\n", "step 9  los 4.61\n")
  assert not shown("a\nb\n", "a\nc\nb\n")


def test_commands_have_the_flags_that_documents_show():
  known = {}
  docs = [conftest.ROOT / "docs" / name for name in ("evaluation.md", "data.md")]
  for document in (README, *(file.read_text() for file in docs)):
    for line in document.replace("\\\n", " ").split("\n"):
      for module, flags in re.findall(r"python -m (crate_jax\.\w+)((?: +--?[\w.]+=?\S*)+)", line):
        if module not in known:
          known[module] = subprocess.run(
            [sys.executable, "-m", module, "--help"],
            cwd=conftest.ROOT, capture_output=True, text=True, timeout=180,
          ).stdout  # fmt: skip
        for flag in re.findall(r"--(\w+)(?![\w.]*\.)", flags):
          assert re.search(rf"--(\[no\])?{flag}:", known[module]), (module, flag)
  commands = ("main", "prepare", "evaluate", "generate", "checkpoints")
  assert set(known) == {f"crate_jax.{x}" for x in commands}


def test_files_that_documents_name_are_there():
  documents = [conftest.ROOT / "README.md", conftest.ROOT / "CONTRIBUTING.md"]
  for document in [*documents, *(conftest.ROOT / "docs").glob("*.md")]:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
      if "://" not in target:
        assert (document.parent / target).exists(), (document.name, target)


def test_the_table_of_questions_has_a_row_for_each():
  text = (conftest.ROOT / "docs" / "questions.md").read_text()
  assert [int(n) for n in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == list(range(1, 27))
