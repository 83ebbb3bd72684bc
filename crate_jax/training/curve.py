"""The picture of a run: its loss over tokens beside the reference lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw(path: Path, lines: Sequence[dict[str, Any]], result: dict[str, Any]) -> None:
  """Writes a PNG.

  Args:
    path: where to.
    lines: the run's metrics.jsonl (`workdir.read_metrics`).
    result: its result.json.
  """
  config = result["config"]
  tokens = config["train"]["batch_size"] * config["model"]["context"]
  figure = Figure(figsize=(7, 4.2), layout="constrained")  # no pyplot: no global state, no display
  axes = figure.add_subplot()
  for name, label, style in (
    ("loss", "training, one batch", {"color": "0.7", "linewidth": 1.5}),
    ("val_loss", f"validation: {_number(result['val_loss'])}", {"color": "C0", "marker": "o"}),
  ):
    # Lines of an evaluation did not always say how many tokens there were before it.
    seen = ((line.get("tokens", line["step"] * tokens), line) for line in lines)
    points = [(count / 1e6, line[name]) for count, line in seen if name in line]
    x, y = zip(*points, strict=True) if points else ((), ())
    axes.plot(x, [float("nan") if value is None else value for value in y], label=label, **style)
  for name, color in (("unigram", "C3"), ("bigram", "C1")):
    loss = result[f"{name}_loss"]
    axes.axhline(
      float("nan") if loss is None else loss,
      color=color,
      linestyle="--",
      linewidth=1.5,
      label=f"{name}: {_number(loss)}",
    )
  model = config["model"]
  axes.set(
    title=f"{model['architecture']}, {model['layers']} layers of width {model['width']}, "
    f"{result['parameters']:,} parameters",
    xlabel="training tokens, millions",
    ylabel="loss, nats per token",
  )
  axes.legend(frameon=False)
  axes.spines[["top", "right"]].set_visible(False)
  temporary = path.with_name(f".{path.name}")
  figure.savefig(temporary, dpi=120, format="png")
  temporary.replace(path)


def _number(value: float | None) -> str:
  return "not finite" if value is None else f"{value:.4f}"
