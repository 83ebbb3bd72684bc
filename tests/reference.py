"""Plain NumPy float64 renderings of the published equations, sharing no code with the package.

Weights come as the package's parameter tree (blocks stacked along axis 0); which parts a model is
made of as its `ModelConfig`.
"""

import functools

import numpy as np

Tree = dict


def layer_norm(x, scale, bias=None):
  mean = x.mean(-1, keepdims=True)
  variance = ((x - mean) ** 2).mean(-1, keepdims=True)
  y = (x - mean) / np.sqrt(variance + 1e-5) * scale
  return y if bias is None else y + bias


def attend(q, k, v):
  """Causal attention of one head, (T, H) each."""
  out = np.zeros_like(v)
  for t in range(len(q)):
    score = k[: t + 1] @ q[t] / np.sqrt(q.shape[1])
    weight = np.exp(score - score.max())
    out[t] = weight @ v[: t + 1] / weight.sum()
  return out


def tssa(w, temperature):
  """Causal token statistics (Wu et al. 2024) of w (K, T, H), token by token."""
  K, T, _ = w.shape
  member = np.zeros((K, T))
  for t in range(T):
    # Of the token in every group, each direction relative to its power so far, if it had any.
    past = (w[:, : t + 1] ** 2).sum(1)
    energy = np.array([sum(w[k, t, past[k] > 0] ** 2 / past[k, past[k] > 0]) for k in range(K)])
    score = np.exp(temperature * energy - (temperature * energy).max())
    member[:, t] = score / score.sum()
  out = np.zeros_like(w)
  for k in range(K):
    for t in range(T):
      weight = member[k, : t + 1]
      moment = weight @ w[k, : t + 1] ** 2 / weight.sum()  # the second moment of the group so far
      out[k, t] = -member[k, t] * w[k, t] / (1 + moment)
  return out


def shrink(a, threshold, nonnegative=True):
  """The proximal operator of threshold * ||a||_1, over a >= 0 or all a."""
  if nonnegative:
    return np.maximum(a - threshold, 0)
  return np.sign(a) * np.maximum(np.abs(a) - threshold, 0)


def ista(
  z, dictionary, steps=2, eta=0.1, lam=0.1, warm_start=False, nonnegative=True, edit=lambda n, a: a
):
  """Codes (T, C) of tokens (T, D); the column dictionary of the paper is `dictionary.T`."""
  codes = z if warm_start else np.zeros((len(z), len(dictionary)))
  for step in range(1, steps + 1):
    gradient = (codes @ dictionary - z) @ dictionary.T
    codes = edit(f"A{step}", shrink(codes - eta * gradient, eta * lam, nonnegative))
  return codes


def mix(u, p, c, edit):
  """What the mixing step adds to the stream."""
  if c.mixing == "mha":
    q, k, v = (np.einsum("td,dkh->kth", u, p["qkv"][i]) for i in range(3))
    v = edit_heads(v, edit)
  else:
    v = edit_heads(np.einsum("td,dkh->kth", u, p["subspaces"]), edit)
    q = k = v
  if c.mixing == "mssa_query":
    query = p["query"] if "query" in p else np.tensordot(p["query_down"], p["query_up"], 1)
    q = np.einsum("td,dkh->kth", u, query)
  if c.mixing == "tssa":
    y = tssa(v, p["temperature"])
  else:
    y = np.stack([attend(*head) for head in zip(q, k, v, strict=True)])
  added = np.einsum("kth,khd->td", y, p["output"]) + p.get("output_bias", 0)
  return edit("attention", added)


def edit_heads(v, edit):
  """v (K, T, H) as the activation "u", whose units are the heads' one after the other."""
  K, T, H = v.shape
  return edit("u", v.transpose(1, 0, 2).reshape(T, K * H)).reshape(T, K, H).transpose(1, 0, 2)


def features(z, p, c, edit):
  """What the feature step returns."""
  if c.features == "ista":
    eta = np.exp(p["log_eta"]) if "log_eta" in p else c.eta
    lam = np.exp(p["log_lam"]) if "log_lam" in p else c.lam
    dictionary = p["dictionary"]
    codes = ista(z, dictionary, c.ista_steps, eta, lam, c.warm_start, c.nonnegative, edit)
    if c.decoder == "none":
      return codes
    return codes @ (p["decoder"] if c.decoder == "separate" else dictionary)
  hidden = np.maximum(z @ p["encoder"], 0)
  if c.features == "topk":
    for token in hidden:
      token[np.argsort(token)[: len(token) - c.topk]] = 0
  return edit("A1", hidden) @ p["decoder"]


def block(x, p, c, edit=lambda name, value: value):
  """The stream (T, D) after a layer; `edit` sees, and may replace, every named activation."""
  x = edit("stream", x)
  x = x + mix(layer_norm(x, p["norm_1"]["scale"], p["norm_1"].get("bias")), p["mixing"], c, edit)
  if c.features == "none":
    return x
  z = layer_norm(x, p["norm_2"]["scale"], p["norm_2"].get("bias"))
  decoded = edit("decoded", features(z, p["features"], c, edit))
  return x + decoded if c.residual else decoded


def logits(params: Tree, tokens, c, edit=lambda layer, name, value: value):
  """Logits (T, V) of one sequence; `edit` as in `block`, with the layer (None for "logits")."""
  x = params["tokens"][tokens] + params["positions"][: len(tokens)]
  for layer in range(c.layers):
    x = block(x, pick(params["blocks"], layer), c, functools.partial(edit, layer))
  x = layer_norm(x, params["norm"]["scale"], params["norm"].get("bias"))
  return edit(None, "logits", x @ params["tokens"].T)


def loss(params: Tree, windows, c):
  """Mean cross-entropy of the last T of each window's T + 1 tokens, plus the L1 penalty if any."""
  total, penalty = [], 0.0

  def add_sizes(layer, name, value):
    nonlocal penalty
    if name == "A1":
      penalty += np.abs(value).sum(-1).mean() / len(windows)
    return value

  for window in windows:
    out = logits(params, window[:-1], c, add_sizes)
    top = out.max(-1)
    log_sum = top + np.log(np.exp(out - top[:, None]).sum(-1))
    total.append(log_sum - out[np.arange(len(out)), window[1:]])
  return np.mean(total) + c.l1 * penalty


def wide(tree):
  """A tree of float64 arrays."""
  if isinstance(tree, dict):
    return {key: wide(value) for key, value in tree.items()}
  return np.asarray(tree, np.float64)


def pick(tree: Tree, layer: int):
  if isinstance(tree, dict):
    return {key: pick(value, layer) for key, value in tree.items()}
  return tree[layer]
