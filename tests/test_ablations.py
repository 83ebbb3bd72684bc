"""`scaling.ablations` on planted tables, its words, and the config of its sweep."""

import dataclasses
import json
import subprocess
import sys

import conftest
import numpy as np
import pytest
from test_effects import PLANTED, sweep

from configs import ablations as sweep_config
from configs import plateau_pile
from crate_jax import config as config_lib
from crate_jax.errors import UserError
from crate_jax.model import lm
from crate_jax.scaling import ablations_report, effects, grid, table

LONG = "long=residual+separate+query+crate_alpha"


def words(rows):
  return [ablations_report.prose(study) for study in effects.studies(rows)]


def command(*flags):
  return subprocess.run(
    [sys.executable, "-m", "crate_jax.scaling.ablations", *map(str, flags)],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip


def test_the_first_paragraph_says_what_helps_and_what_hurts():
  ((first, gap, l1, topk, wild),) = words(sweep())
  assert first.startswith(
    "At 2 layers of width 128 and 819,200 tokens (800 steps), 3 seeds (0, 1, 2): beyond the error "
    "(95%, corrected for 8 variants), what helps is gpt2 (-0.1992), l1_1e-4 (-0.1892), "
  )
  assert "residual (-0.0992)" in first.split(";")[0]
  assert "; what hurts is t1 (+0.1008). " in first
  assert first.endswith("Not told from crate: t4 (+0.0043).")
  assert gap.startswith("crate is 0.1992 (0.1960 to 0.2023) nats above gpt2. ")
  assert "are closed: residual 50% (48% to 52%). None alone closes it" in gap
  assert l1.startswith("ReLU MLP with an L1 penalty in gpt2: nearest to crate's 30.0% of active")
  assert "neurons is l1_1e-4 with 31.0%; it is -0.1892 (" in l1 and "+0.0100 from gpt2." in l1
  assert "topk_144 with 28.0%" in topk
  assert wild.startswith("The losses of t4 spread more over the seeds than those of the others")


def test_what_only_the_spread_of_all_seeds_shows_is_said_apart():
  rows = [r for r in sweep() if r.variant != "t4"]
  spread = {name: np.roll([0.02, -0.02, 0.0], i) for i, name in enumerate(PLANTED)}
  spread["residual"] = (0.06, -0.06, 0.0)
  rows = [dataclasses.replace(r, loss=r.loss + spread[r.variant][r.seed]) for r in rows]
  ((first, *_),) = words(rows)
  sure, shared = first.split("If the spread between seeds is taken to be the same for all variants")
  assert "residual" not in sure
  assert shared.startswith(", this adds: what helps is ") and "residual (-0.0992)" in shared


def test_a_part_that_could_close_the_gap_is_named():
  better = {0: -0.102, 1: -0.1, 2: -0.098}
  better = [
    dataclasses.replace(r, loss=r.loss + better[r.seed]) if r.variant == "residual" else r
    for r in sweep()
  ]
  ((_, gap, *_),) = words(better)
  assert gap.endswith("Able to close it, as far as these intervals go: residual.")
  ((_, gap, *_),) = words([r for r in sweep() if r.variant in ("crate", "gpt2", "t1")])
  assert gap.endswith("No changed part of CRATE closes a share of it that is told from zero.")


def test_an_unfinished_table_claims_nothing_that_it_does_not_hold():
  ((first, gap, *rest),) = words(sweep(seeds=(0,)))
  assert "1 seed (0): no error is known, and nothing can be said to help or hurt." in first
  assert "one seed" in gap and "there is one seed" in rest[-1]
  ((first, *rest),) = words(sweep(["gpt2", "residual"]))
  assert first.endswith("nothing to compare yet.") and "crate has no cell of 800 steps" in rest[-1]
  ((*_, last),) = words([r for r in sweep() if (r.variant, r.seed) != ("gpt2", 2)])
  assert last == "**Not complete:** gpt2 lacks seed 2."
  rows = [dataclasses.replace(r, learning_rate=6e-3) if r.kind == "grid" else r for r in sweep()]
  ((*_, last, _),) = words(rows)
  assert last.startswith("The rate is the lowest or highest of those tried for gpt2, l1_1e-4")


def test_the_command_writes_words_numbers_and_a_picture(tmp_path):
  longer = [r for r in sweep(["crate", "gpt2", "residual"], (2400,)) if r.kind == "grid"]
  table.write(tmp_path / "sweep", [*sweep(), *longer])
  out = tmp_path / "new" / "out"
  done = command(f"--workdir={tmp_path / 'sweep'}", f"--out={out}")
  assert done.returncode == 0, done.stderr
  assert done.stderr == ""
  assert sorted(p.name for p in out.iterdir()) == [f"ablations.{x}" for x in ("json", "md", "png")]
  assert (out / "ablations.png").read_bytes().startswith(b"\x89PNG")
  written = json.loads((out / "ablations.json").read_text())
  first, second = written["studies"]
  assert (first["tokens"], second["tokens"]) == (819_200, 2_457_600)
  found = {effect["variant"]: effect for effect in first["effects"]}
  assert set(found) == set(PLANTED) and found["topk_96"]["active"] == pytest.approx(0.19)
  (study, *_) = effects.studies(sweep())
  assert found["t1"]["difference"]["p"] == pytest.approx(study.of("t1").difference.p)
  assert not found["t4"]["continued"]  # crate was trained on to t4's FLOPs
  assert [effect["variant"] for effect in second["effects"]] == ["gpt2", "residual", "crate"]
  assert second["missing"] == []
  text = (out / "ablations.md").read_text()
  for paragraph in first["words"] + second["words"]:
    assert paragraph in text and paragraph in done.stdout
  difference = found["residual"]["difference"]
  interval = f"{difference['value']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})"
  assert f"| residual | {found['residual']['loss']:.4f} | {interval} | " in text
  assert "| 30.0%, 20.0% | 6,000,000 | 460,288 | 0.003 |" in text
  assert "## 2 layers of width 128, 2,457,600 tokens" in text
  assert f"--workdir={tmp_path / 'sweep'}" in text and written["commit"] in text


def test_partial_tables_have_their_picture_too(tmp_path):
  for name, rows in [("one", sweep(seeds=(0,))), ("none", sweep(["t1"]))]:
    path = tmp_path / f"{name}.png"
    ablations_report.draw(path, effects.studies(rows))
    assert path.stat().st_size > 5_000
    text = ablations_report.markdown(effects.studies(rows), {"commit": "", "command": ""})
    assert "%)" not in text  # no share of a gap that nothing bounds


@pytest.mark.parametrize(
  ("flags", "code", "sentence"),
  [([], 2, "The flag --out is required"), (["--out=OUT"], 1, "table.parquet is not there")],
)
def test_one_sentence_says_what_is_wrong(flags, code, sentence, tmp_path):
  out = tmp_path / "out"
  flags = [flag.replace("OUT", str(out)) for flag in flags]
  done = command(f"--workdir={tmp_path / 'none'}", *flags)
  assert done.returncode == code and sentence in done.stderr
  assert done.stderr.count("\n") == 1 and not out.exists()


def cells(c):
  """Every variant of a sweep's config at every shape, as the sweep would train it."""
  read = grid.read(c)
  for variant in read.variants:
    for shape in read.shapes:
      cell = grid.Cell(variant, shape, read.steps[-1], 0, read.rates[0])
      yield variant, config_lib.resolve_without_text(grid.cell_config(c, read, cell))


def test_every_ablation_resolves_and_changes_what_its_name_says():
  models = {name: config.model for name, config in cells(sweep_config.get_config())}
  assert list(models) == sorted(sweep_config.VARIANTS)
  base, sizes = models["crate"], {(m.layers, m.width, m.heads, m.context) for m in models.values()}
  assert sizes == {(2, 128, 4, 256)}
  assert (base.ista_steps, base.lam, base.overcompleteness) == (2, 0.1, 4)
  changed = {
    name: {f: v for f, v in dataclasses.asdict(m).items() if v != getattr(base, f)}
    for name, m in models.items()
  }
  assert changed["crate"] == {}
  assert changed["lambda_quarter"] == {"lam": 0.025} and changed["lambda_fourfold"] == {"lam": 0.4}
  assert changed["n8"] == {"overcompleteness": 8} and changed["t4"] == {"ista_steps": 4}
  assert changed["residual"] == {"residual": True} and changed["soft"] == {"nonnegative": False}
  assert changed["query"] == {"mixing": "mssa_query"} and changed["mha"] == {"mixing": "mha"}
  assert changed["mlp"] == {"features": "mlp", "decoder": "separate"}
  assert models["l1_1e-4"].l1 == 1e-4 and models["topk_96"].topk == 96
  assert len({tuple(sorted(change.items())) for change in changed.values()}) == len(models)
  assert all(name.startswith(("l1_", "topk_")) == (m.l1 + m.topk > 0) for name, m in models.items())


def test_the_second_stage_trains_the_named_for_three_times_as_long():
  first, long = sweep_config.get_config(), sweep_config.get_config(LONG)
  assert set(long.sweep.variants) == {"crate", "gpt2", *LONG.removeprefix("long=").split("+")}
  assert long.sweep.steps == (*first.sweep.steps, 3 * first.sweep.steps[-1])
  assert first.sweep.steps[-1] * first.train.batch_size * first.model.context == 819_200
  assert len(first.sweep.seeds) == len(first.sweep.rates) == 3
  assert dict(cells(long))["query"].train.steps == 2400
  # What the first stage has done is not done again: the same trials, and cells of the same digests.
  assert long.sweep.trials == first.sweep.trials

  def digests(c):
    read = grid.read(c)
    chosen = {(name, shape): read.rates[0] for name in read.variants for shape in read.shapes}
    every = grid.cells(read, chosen)
    return {cell.name: grid.digest(grid.cell_config(c, read, cell), read) for cell in every}

  done, wanted = digests(first), digests(long)
  assert len(wanted) == 6 * 3 * 3 and len(set(wanted) - set(done)) == 6 * 3
  assert all(done[name] == wanted[name] for name in set(wanted) & set(done))
  for wrong, sentence in [
    ("residual", "'residual' is not long=NAME"),
    ("long=", "is not long=NAME"),
    ("long=residul", "Unknown variant 'residul'"),
  ]:
    with pytest.raises(UserError, match=sentence):
      sweep_config.get_config(wrong)


def test_the_paper_s_sizes_on_the_pile():
  c = plateau_pile.get_config()
  counts = [lm.count_parameters(config.model)["total"] for _, config in cells(c)]
  published = [6.54, 6.64, 6.74, None, 81.15, 6.64, 6.83, 7.03, 81.11, 123.59]  # crate's, gpt2's
  for count, million in zip(counts, published, strict=True):
    assert million is None or count / 1e6 == pytest.approx(million, abs=0.006)
  assert c.sweep.steps[-1] * c.train.batch_size * c.model.context == 157_286_400_000
  assert plateau_pile.get_config("3L+12L").sweep.shapes == ("3x128x4", "12x768x12")
  with pytest.raises(UserError, match="Unknown size '4L'"):
    plateau_pile.get_config("4L")
