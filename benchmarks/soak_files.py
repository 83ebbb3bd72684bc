"""Files that are damaged and mutated, and what digests cost: experiments of benchmarks/soak.py."""

import hashlib
import json
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.soak_jobs import ROOT, Row, fresh, row, saved, straight
from benchmarks.soak_reader import Answer, Reader

# What neither `crate_jax.load` nor the state of a resumed run is read from.
UNREAD = ["tensorboard", "loss.png", "metrics.jsonl", "result.json", "config.json", "data.json"]


def damage(folder: Path, flips: int = 20) -> list[Row]:
  """Damages every file of the newest of three checkpoints, and reads what is left."""
  plain, run = straight(folder), fresh(folder / "damaged")
  shutil.copytree(plain, run)
  *_, before, newest = saved(run)
  files = [
    path for path in sorted((run / "checkpoints" / str(newest)).rglob("*")) if path.is_file()
  ]
  ways = {"one bit flipped": flips, "cut to half": 1, "deleted": 1}
  rng, rows = random.Random(0), []
  with Reader() as reader:
    whole = {step: reader.ask("state", run, step)["value"] for step in (newest, before)}
    for way, times in ways.items():
      tried, bad, back = 0, list[str](), 0
      for file in files:
        data = file.read_bytes()
        for _ in range(times if data else min(times, way == "deleted")):
          file.unlink()
          place = rng.randrange(8 * max(len(data), 1))
          if way != "deleted":
            file.write_bytes(_flip(data, place) if times > 1 else data[: len(data) // 2])
          answer = reader.ask("state", run)
          file.unlink(missing_ok=True)
          file.write_bytes(data)
          tried += 1
          back += answer.get("value") == whole[before]
          if wrong := _judge(answer, whole, newest):
            at = f" (bit {place})" if times > 1 else ""
            bad.append(f"{file.relative_to(run)}{at}: {wrong}")
      note = f"{len(files)} files; {back} times it went back to the checkpoint before"
      rows.append(row(f"a file of the newest checkpoint {way}", tried, bad, note))
  return rows


def _flip(data: bytes, bit: int) -> bytes:
  changed = bytearray(data)
  changed[bit // 8] ^= 1 << bit % 8
  return bytes(changed)


def _judge(answer: Answer, whole: dict[int, tuple[int, str]], newest: int) -> str:
  """What is wrong about an answer that must be that of a whole checkpoint, and say so."""
  if "value" not in answer:
    return answer.get("failed") or f"refused: {answer['refused']}"
  step, found = answer["value"]
  if step not in whole:
    return f"it gives step {step}"
  if found != whole[step][1]:
    return f"WRONG VALUES of step {step}"
  if step != newest and f"The checkpoint of step {newest} is damaged" not in answer["said"]:
    return f"it gives step {step} and does not say why"
  return ""


def fuzz(folder: Path, count: int = 400) -> list[Row]:
  """Mutates runs and prepared data, half of the tries each, and loads them."""
  plain, prepared = straight(folder), folder / "prepared"
  if not (prepared / "manifest.json").exists():
    command = [sys.executable, "-m", "crate_jax.prepare", "--config=configs/tiny.py"]
    options = [f"--config.data.train={folder / 'text.txt'}", "--config.data.tokenizer=bytes"]
    subprocess.run(
      [*command, *options, f"--out={prepared}"], check=True, cwd=ROOT, capture_output=True
    )
  rows, tries = [], max(1, count // 2)
  kinds: dict[str, tuple[Path, tuple[str, ...], list[Any]]] = {
    "two checkpoints and tokenizer.json": (plain, ("run", "state"), saved(plain)[-2:]),
    "shards": (prepared, ("prepared",), [None]),
  }
  for mutated, (source, asked, steps) in kinds.items():
    bad, refused, back, same = list[str](), 0, 0, 0
    copy = folder / f"fuzz-{source.name}"
    unread = shutil.ignore_patterns(*UNREAD, "lock", *(str(step) for step in saved(plain)[:-2]))
    with Reader() as reader:
      whole: dict[str, dict[Any, Any]] = {
        kind: {
          at: (at, value) for at, value in (reader.ask(kind, source, s)["value"] for s in steps)
        }
        for kind in asked
      }
      for number in range(tries):
        shutil.copytree(source, fresh(copy), ignore=unread)
        before, newest = _contents(copy), max(saved(copy), default=0)
        what = _mutate(random.Random(number), copy)
        after = _contents(copy)
        changed = {path for path in before | after if before.get(path) != after.get(path)}
        same += not changed
        only_newest = all(path.startswith(f"checkpoints/{newest}/") for path in changed)
        answers = [reader.ask(kind, copy) for kind in asked]
        refused += any("refused" in answer for answer in answers)
        back += any("value" in answer and answer["value"][0] != steps[-1] for answer in answers)
        for kind, answer in zip(asked, answers, strict=True):
          message = answer.get("refused", "")
          if not message or only_newest:  # another checkpoint is whole, or nothing is wrong
            wrong = _judge(answer, whole[kind], max(saved(copy), default=0))
          else:
            wrong = "" if str(copy) in message else f"its message names no file: {message}"
          if wrong:
            bad.append(f"case {number}, {what}: {wrong}")
            break
    note = f"{refused} refused in a sentence that names the file"
    note += f", {back} gave the checkpoint before" if source == plain else ""
    rows.append(row(f"mutated {mutated}", tries, bad, f"{note}, {same} changed nothing"))
  return rows


def _contents(folder: Path) -> dict[str, Any]:
  """What lies below a folder: of links where they lead, of files their SHA-256."""
  found: dict[str, Any] = {}
  for path in folder.rglob("*"):
    name = str(path.relative_to(folder))
    if path.is_symlink():
      found[name] = path.readlink()
    elif path.is_file():
      found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    else:
      found[name] = "a folder"
  return found


# What a value of a JSON file is changed to.
VALUES: tuple[Any, ...] = (
  10**30,
  2**63,
  10**9,
  -1,
  0,
  1.5,
  True,
  None,
  "",
  "../../../x",
  "9" * 1000,
  [],
  [0],
  {},
)
WAYS = (
  "bits",
  "bits",
  "cut",
  "deleted",
  "swapped",
  "JSON",
  "JSON",
  "JSON",
  "linked",
  "..",
  "moved",
)


def _mutate(rng: random.Random, folder: Path) -> str:
  """Changes a file at random, or the name of a checkpoint; says how."""
  # As likely in one checkpoint as in one file beside them, however many files it has.
  groups: dict[tuple[str, ...], list[Path]] = {}
  for path in sorted(path for path in folder.rglob("*") if path.is_file()):
    groups.setdefault(path.relative_to(folder).parts[:2], []).append(path)
  way = rng.choice(WAYS)
  if way == "JSON" or (way == ".." and rng.random() < 0.5):
    documents = [[path for path in group if _json(path) is not None] for group in groups.values()]
    path = rng.choice(rng.choice([group for group in documents if group]))
    return f"{path.relative_to(folder)}: {_change(rng, path, way)}"
  path, other = (rng.choice(rng.choice(list(groups.values()))) for _ in range(2))
  data = path.read_bytes()
  what = f"{path.relative_to(folder)} {way}"
  if way == "bits":
    for _ in range(rng.choice([1, 8]) if data else 0):
      data = _flip(data, rng.randrange(8 * len(data)))
    path.write_bytes(data)
  elif way == "cut":
    path.write_bytes(data[: rng.randrange(len(data) + 1)])
  elif way == "swapped":
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)
    what += f" with {other.relative_to(folder)}"
  elif way == "..":
    path.rename(path.with_name(f"..{path.name}"))
  elif way == "moved":
    return _move(rng, folder)
  else:
    path.unlink()
    if way == "linked":
      elsewhere = folder.with_name(f"{folder.name}-elsewhere")
      elsewhere.write_bytes(data)
      target = rng.choice([elsewhere, Path("nowhere"), Path(path.name), Path(), other])
      path.symlink_to(target)
      what += f" to {target}"
  return what


def _move(rng: random.Random, folder: Path) -> str:
  """Gives a folder another name, or puts an empty or a strange one beside it."""
  path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_dir()))
  names = ("61", "999999999999999999999999", "-1", "007", "..60", "6 0", "60.orbax-checkpoint-tmp")
  other = path.with_name(rng.choice(names))
  if rng.random() < 0.5:
    path.rename(other)
    return f"{path.relative_to(folder)} is {other.name} now"
  other.mkdir()
  return f"an empty {other.relative_to(folder)}"


def _json(path: Path) -> Any:
  try:
    return json.loads(path.read_bytes()) or None
  except (ValueError, RecursionError):
    return None


def _change(rng: random.Random, path: Path, way: str) -> str:
  """Changes a value of a JSON file: to another, to a name with `..`, or leaves it out."""
  tree = at = _json(path)
  if not isinstance(tree, dict | list):
    path.write_text(json.dumps(value := rng.choice(VALUES)))
    return f"is {value!r:.40}"
  places: list[tuple[Any, Any]] = []
  while isinstance(at, dict | list) and at and (not places or rng.random() < 0.9):
    key = rng.choice(sorted(at) if isinstance(at, dict) else range(len(at)))
    places.append((at, key))
    at = at[key]
  (holder, key), name = places[-1], ".".join(str(key) for _, key in places)
  if way == ".." and isinstance(at, str):
    holder[key] = f"../{path.parent.name}/{at}"
  elif rng.random() < 0.1:
    del holder[key]
    path.write_text(json.dumps(tree))
    return f"without {name}"
  else:
    holder[key] = rng.choice(VALUES)
  path.write_text(json.dumps(tree))
  return f"{name} = {holder[key]!r:.40}"


def cost(folder: Path, size: str = "12L", rounds: int = 3) -> list[Row]:
  """Times saves and restores of a model of configs/base.py, with digests and without."""
  with Reader(memory=64 << 30) as reader:
    answer = reader.ask("cost", fresh(folder / "cost"), size, rounds, seconds=3600)
  shutil.rmtree(folder / "cost", ignore_errors=True)
  if "value" not in answer:
    return [row(f"cost of digests, {size}", 1, [answer.get("failed") or answer["refused"]])]
  times = {name: statistics.median(seconds) for name, seconds in answer["value"][1].items()}
  note = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items())
  share = f"digests of a save are {times['digests'] / 60:.2%} of a minute"
  what = f"cost of digests: configs/base.py:{size}, {answer['value'][0] / 1e9:.2f} GB of state"
  return [row(what, rounds, [], note, share)]
