"""The files of `scaling.plateau`."""

from collections.abc import Sequence
from pathlib import Path

from crate_jax import page as page_lib
from crate_jax.data import atomic
from crate_jax.errors import UserError
from crate_jax.scaling.report import analysis as analysis_lib
from crate_jax.scaling.report import checklist as checklist_lib
from crate_jax.scaling.report import forecast as forecast_lib
from crate_jax.scaling.report import pictures as pictures_lib
from crate_jax.scaling.report import sections as sections_lib
from crate_jax.scaling.report.analysis import Choice
from crate_jax.scaling.table import Row
from crate_jax.training import report
from crate_jax.training import workdir as files


def write_report(
  rows: Sequence[Row], choice: Choice, workdir: Path, out: Path, command: str
) -> str:
  """Writes the report; the same rows, choice and command give the same bytes.

  Args:
    rows: of a sweep's table.
    choice: what the command was told.
    workdir: where forecast.json and the sweep's config.json lie, if there are such files.
    out: folder, made if it is not there.
    command: as it was typed.

  Returns:
    What to say on the terminal.

  Raises:
    UserError: see `analysis_lib.analyse`, `forecast_lib.load` and `checklist_lib.recipe`.
  """
  forecast = forecast_lib.load(workdir / forecast_lib.FILE)
  recipe = checklist_lib.recipe(workdir / files.CONFIG)
  a = analysis_lib.analyse(rows, choice)
  scored = forecast_lib.score(forecast, a.cells) if forecast else []
  facts = {**report.environment(), "command": command}
  out.mkdir(parents=True, exist_ok=True)
  pictures = pictures_lib.draw(out, a, scored)
  title, answer = sections_lib.title(a), sections_lib.answer(a)
  blocks = sections_lib.blocks(a, forecast, scored, pictures, recipe, facts)
  atomic.write(out / "plateau.md", page_lib.markdown(title, blocks))
  atomic.write(out / "plateau.html", page_lib.page(title, blocks))
  numbers = {
    **analysis_lib.as_dict(a),
    "forecast": [forecast_lib.as_dict(of) for of in scored],
    "answer": answer,
    **facts,
  }
  files.write_json(out / "plateau.json", report.finite(numbers))
  names = ", ".join(path.name for path in pictures.values())
  plain = answer.replace("**", "")
  return f"{plain}\nwritten to {out}: plateau.md, plateau.html, plateau.json, {names}"


def write_forecast(
  rows: Sequence[Row], target: str, choice: Choice, out: Path, command: str
) -> str:
  """Writes forecast.json; arguments as of `write_report`, and `target` as `--forecast` has it.

  Raises:
    UserError: OUT has one already; see `forecast_lib.target` and `forecast_lib.make`.
  """
  if (out / forecast_lib.FILE).exists():
    raise UserError(f"{out / forecast_lib.FILE} is there already: no forecast is written over.")
  tokens = forecast_lib.target(target, rows)
  made = forecast_lib.make(rows, tokens, choice)
  made |= {"commit": report.environment()["commit"], "command": command}
  out.mkdir(parents=True, exist_ok=True)
  files.write_json(out / forecast_lib.FILE, report.finite(made))
  written = f"written to {out / forecast_lib.FILE}, from {len(made['cells'])} shorter cells"
  return "\n".join([*forecast_lib.lines(made), written])
