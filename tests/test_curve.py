import matplotlib.colors
import matplotlib.image
import numpy as np

from crate_jax.training import curve

RESULT = {
  "parameters": 460_288,
  "val_loss": 4.6,
  "unigram_loss": 6.3,
  "bigram_loss": 4.5,
  "config": {
    "train": {"batch_size": 4},
    "model": {"context": 256, "architecture": "crate", "layers": 2, "width": 128},
  },
}
LINES = [
  {"step": 100, "loss": 6.0},
  {"step": 200, "loss": 5.0},
  {"step": 200, "val_loss": 5.1},
  {"step": 300, "loss": 4.5},
  {"step": 300, "val_loss": 4.6},
]


def shows(path, color):
  """Whether some pixels have the colour."""
  pixels = matplotlib.image.imread(path)[..., :3]
  return bool((np.abs(pixels - matplotlib.colors.to_rgb(color)).max(-1) < 0.02).sum() > 50)


def test_the_picture_shows_the_curves_and_the_reference_lines(tmp_path):
  curve.draw(tmp_path / "loss.png", LINES, RESULT)
  assert [p.name for p in tmp_path.iterdir()] == ["loss.png"]
  assert all(shows(tmp_path / "loss.png", color) for color in ("C0", "C1", "C3", "0.7"))


def test_losses_that_are_not_finite_leave_a_gap(tmp_path):
  lines = [*LINES, {"step": 400, "loss": None}, {"step": 400, "val_loss": None}]
  curve.draw(tmp_path / "loss.png", lines, RESULT | {"val_loss": None, "bigram_loss": None})
  assert shows(tmp_path / "loss.png", "C0") and shows(tmp_path / "loss.png", "C3")
