"""Scores the answers that people gave on a sheet, and how far they agree.

`interpret.neurons` and `interpret.compare` write OUT/sheet.html, to be handed out, and
OUT/sheet_key.json. This reads the key and the CSV files that came back, and prints a table, which
it also writes as OUT/agreement.md: for each person and for all the share of right answers, of each
model's neurons, with its 95 % interval over neurons; chance is one in four. "Cannot tell" and no
answer count as wrong. Agreement is Fleiss' kappa over the answers: 0 is chance, 1 is always.

  python -m crate_jax.interpret.agreement --out=runs/neurons --answers=anna.csv,ben.csv
"""

import json
from pathlib import Path

from absl import flags

from crate_jax import cli
from crate_jax.data import atomic
from crate_jax.errors import UserError
from crate_jax.interpret import answers
from crate_jax.interpret.sheet import KEY
from crate_jax.page import markdown

OUT = flags.DEFINE_string("out", "", "The folder with sheet_key.json.")
ANSWERS = flags.DEFINE_list("answers", [], "CSV files of question,answer; one a person.")


def main() -> None:
  """Prints and writes the table."""
  out = Path(OUT.value).expanduser()
  key = _key(out / KEY)
  given = {path: answers.read(Path(path).expanduser(), len(key)) for path in ANSWERS.value}
  text = markdown("Answers", answers.report(key, given))
  print(text)
  atomic.write(out / "agreement.md", text)


def _key(path: Path) -> list[dict]:
  if not path.exists():
    raise UserError(f"{path} is missing: interpret.neurons and interpret.compare write it.")
  return json.loads(path.read_text("utf-8"))


if __name__ == "__main__":
  cli.run(main, required=["out", "answers"])
