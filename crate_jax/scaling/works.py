"""How a difference of losses varies with the works of the text that it is measured on."""

import numpy as np

WORKS = 5  # fewer cannot say how a loss varies


def by_work(
  nats_a_W: np.ndarray,
  nats_b_W: np.ndarray,
  tokens_W: np.ndarray,
  draws: int,
  rng: np.random.Generator,
  level: float = 0.9,
) -> tuple[float, float, float]:
  """How a difference of losses varies with the text: whole works are drawn again, paired.

  Seeds do not say it, as all of them are evaluated on the same works. The interval is that of the
  bootstrapped t statistic (Efron and Tibshirani 1993, section 12.5), for works are few and differ
  in length.

  Args:
    nats_a_W: negative log-likelihood of each work by model a, summed over its tokens; a mean over
      seeds, if there are more.
    nats_b_W: by model b.
    tokens_W: of each work.
    draws: how many texts are drawn.
    rng: random numbers.
    level: of the interval.

  Returns:
    a's loss minus b's in nats per token, and its interval: infinite where there are fewer than five
    works, and it may be so with few more.
  """
  tokens_W = np.asarray(tokens_W, float)
  difference_W = np.asarray(nats_a_W, float) - np.asarray(nats_b_W, float)
  W = len(tokens_W)
  if W < WORKS:
    return float(difference_W.sum() / tokens_W.sum()), -np.inf, np.inf
  value, error = _ratio(difference_W, tokens_W)
  chosen_NW = rng.integers(W, size=(draws, W))
  values_N, errors_N = _ratio(difference_W[chosen_NW], tokens_W[chosen_NW])
  off_N = values_N - value
  # A text that is one work over and over has no error: t is infinite, or 0 without a difference.
  tiny = 1e-9 * error
  t_N = np.where(np.abs(off_N) > tiny, np.copysign(np.inf, off_N), 0.0)
  np.divide(off_N, errors_N, out=t_N, where=errors_N > tiny)
  low_t = np.quantile(t_N, (1 - level) / 2, method="lower")
  high_t = np.quantile(t_N, (1 + level) / 2, method="higher")
  if not error:
    return float(value), float(value), float(value)
  return float(value), float(value - high_t * error), float(value - low_t * error)


def _ratio(difference: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Sum over works by sum of tokens, and its standard error by linearisation; works are last."""
  W, total = tokens.shape[-1], tokens.sum(-1)
  value = difference.sum(-1) / total
  off = difference - value[..., None] * tokens
  return value, np.sqrt(W / (W - 1) * (off**2).sum(-1)) / total
