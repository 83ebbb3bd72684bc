"""What training takes on TPU slices, from their compiler alone: docs/scaling.md.

  launch/plan.sh
  launch/plan.sh --size=7B --topology=v5p:4x8x8

Every row is one compilation (half a minute to some minutes on two cores; an hour in all), kept in
--out/plans.jsonl, so that the script goes on where it was stopped. Delete that file to measure a
new version. Nothing here ran on a TPU.
"""

import json
import math
from pathlib import Path
from typing import Any

import jax
from absl import flags

from configs import base, c4, pile, shakespeare_char, tiny
from crate_jax import cli
from crate_jax import config as config_lib
from crate_jax.errors import UserError
from crate_jax.model import flops, lm
from crate_jax.model.presets import PRESETS
from crate_jax.training import plan, report

OUT = flags.DEFINE_string("out", "benchmarks/scaling", "Folder for plans.jsonl.")
PAGE = flags.DEFINE_string("page", "docs/scaling.md", "The page that the tables are written to.")
SIZE = flags.DEFINE_string("size", "", "Only rows of this size of configs/base.py.")
TOPOLOGY = flags.DEFINE_string("topology", "", "Only rows on this slice.")

# Cloud names count v5p's cores, two a chip: v5p-512 is 256 chips.
SLICES = {
  "v5e": {"v5e:8x8": "v5e-64", "v5e:8x16": "v5e-128", "v5e:16x16": "v5e-256"},
  "v5p": {"v5p:4x4x4": "v5p-128", "v5p:4x4x8": "v5p-256", "v5p:4x8x8": "v5p-512"},
  "v6e": {"v6e:8x8": "v6e-64", "v6e:8x16": "v6e-128", "v6e:16x16": "v6e-256"},
}
NAMES = {topology: name for slices in SLICES.values() for topology, name in slices.items()}
GRID = [(size, chip) for size in ("12L", "1B", "7B") for chip in SLICES] + [("30B", "v5p")]
# Every config file, and every architecture, on the slice that it states.
STATED = {f"base.py:{size}": (base, size) for size in base.SIZES}
STATED |= {f"base.py:12L,{name}": (base, f"12L,{name}") for name in PRESETS if name != "crate"}
STATED |= {"pile.py": (pile, "12L"), "c4.py": (c4, "12L")}
STATED |= {"tiny.py": (tiny, "crate"), "shakespeare_char.py": (shakespeare_char, "crate")}


def main() -> None:
  """Compiles what is missing, and writes the page."""
  jax.config.update("jax_platforms", "cpu")
  file = Path(OUT.value) / "plans.jsonl"
  file.parent.mkdir(parents=True, exist_ok=True)
  rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
  done = {(row["config"], row["topology"], row["slices"]) for row in rows}
  for name, config, topology, slices in _cases():
    if (name, topology, slices) in done:
      continue
    print(f"{name} on {slices} x {topology} ...", flush=True)
    rows.append(measure(name, config, topology, slices))
    with file.open("a") as out:
      out.write(json.dumps(rows[-1]) + "\n")
  if not SIZE.value and not TOPOLOGY.value:
    Path(PAGE.value).write_text(page(rows))
  print(table(rows))


def _cases() -> list[tuple[str, Any, str, int]]:
  cases = []
  for size, chip in GRID:  # first, so that a run which is cut short has them
    cases.append((f"base.py:{size}", base.get_config(size), list(SLICES[chip])[-1], 1))
  for name, (module, argument) in STATED.items():
    config = module.get_config(argument)
    if config.data.tokenizer == "characters":
      config.model.vocab_size = 65  # those of the tiny Shakespeare
    cases.append((name, config, config.mesh.topology, 1))
  for size, chip in GRID:
    for topology in SLICES[chip]:
      cases.append((f"base.py:{size}", base.get_config(size), topology, 1))
  cases.append(("base.py:7B", _over_slices(base.get_config("7B")), "v5e:16x16", 2))
  unique = {(name, topology, slices): config for name, config, topology, slices in cases}
  return [
    (name, config, topology, slices)
    for (name, topology, slices), config in unique.items()
    if SIZE.value in ("", name.partition(":")[2]) and TOPOLOGY.value in ("", topology)
  ]


def _over_slices(config: Any) -> Any:
  """The state split within a slice, the batch over two of them."""
  config.mesh.data = 2
  return config


def measure(name: str, config: Any, topology: str, slices: int) -> dict[str, Any]:
  """One row: what the compiler says of the config's step on that slice."""
  c = config_lib.resolve_without_text(config)
  tokens = c.train.batch_size * c.model.context
  parameters = sum(x.size for x in jax.tree.leaves(lm.abstract_params(lm.LM(c.model))))
  row = {
    "config": name,
    "topology": topology,
    "slices": slices,
    "parameters": parameters,
    "tokens": tokens,
    "flops_per_token": flops.training_flops_per_token(c.model),
    "remat": c.model.remat,
    "jax": jax.__version__,
    "commit": report.environment()["commit"],
  }
  try:
    planned, roofline = plan.compile_only(c, plan.tpu_devices(topology, slices))
  except UserError as error:
    if "does not fit" not in str(error):
      raise
    return row | {"refused": str(error)}
  assert roofline, topology
  mesh = planned.mesh
  return row | {
    "devices": math.prod(mesh.values()),
    "mesh": "x".join(str(size) for size in mesh.values()),
    # By hand: parameters and AdamW's two moments, float32, split by fsdp and tensor.
    "state_by_hand": 3 * 4 * parameters / (mesh["fsdp"] * mesh["tensor"]),
    "state_bytes": planned.state_bytes,
    "step_bytes": planned.step_bytes,
    "device_bytes": planned.device_bytes,
    "compile_seconds": planned.compile_seconds,
    "link_bytes": roofline.link_bytes,
    "slice_bytes": roofline.slice_bytes,
    "seconds": roofline.seconds,
    "limit": max(roofline.parts, key=lambda part: roofline.parts[part]),
    "mfu": roofline.mfu,
  }


def table(rows: list[dict[str, Any]]) -> str:
  """Rows in Markdown."""
  lines = [
    "| config | slice | mesh | state by hand | state | for a step | of | sent in a step "
    "| MFU at most | limited by | B tokens a day at most |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
  ]
  for row in rows:
    name = NAMES.get(row["topology"], row["topology"])
    name = f"{row['slices']} x {name}" if row["slices"] > 1 else name
    if "refused" in row:
      lines.append(f"| {row['config']} | {name} | {row['refused']} |" + " |" * 8)
      continue
    sent = report.size(row["link_bytes"])
    if row["slices"] > 1:
      sent += f" + {report.size(row['slice_bytes'])} between slices"
    day = 86400 * row["tokens"] / row["seconds"] / 1e9
    lines.append(
      f"| {row['config']} | {name} | {row['mesh']} | {report.size(row['state_by_hand'])} "
      f"| {report.size(row['state_bytes'])} | {report.size(row['step_bytes'])} "
      f"| {report.size(row['device_bytes'])} | {sent} | {row['mfu']:.0%} | {row['limit']} "
      f"| {day:,.1f} |"
    )
  return "\n".join(lines)


def page(rows: list[dict[str, Any]]) -> str:
  """docs/scaling.md; its words stand beside this script, so that both change together."""
  by_key = {(row["config"], row["topology"], row["slices"]): row for row in rows}
  largest = [(f"base.py:{size}", list(SLICES[chip])[-1], 1) for size, chip in GRID]
  largest += [("base.py:7B", "v5e:16x16", 2)]
  growth = [(f"base.py:{size}", t, 1) for size, chip in GRID for t in SLICES[chip]]
  stated = [
    (name, module.get_config(argument).mesh.topology, 1)
    for name, (module, argument) in STATED.items()
  ]
  text = Path(__file__).with_name("scaling").joinpath("page.md").read_text()
  commits = ", ".join(sorted({row["commit"][:10] for row in rows}))
  versions = ", ".join(sorted({row["jax"] for row in rows}))
  return text.format(
    # Those that are there: the page of a run that was cut short holds fewer.
    largest=table([by_key[key] for key in largest if key in by_key]),
    growth=table([by_key[key] for key in growth if key in by_key]),
    stated=table([by_key[key] for key in stated if key in by_key]),
    made=f"commit {commits}, jax {versions}",
  )


if __name__ == "__main__":
  cli.run(main, required=[])
