"""Plain NumPy float64 renderings of the published equations, sharing no code with the package.

Weights come as the package's parameter tree (blocks stacked along axis 0).
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


def ista(z, dictionary, steps=2, eta=0.1, lam=0.1):
  """Codes (T, C) of tokens (T, D); the column dictionary of the paper is `dictionary.T`."""
  codes = np.zeros((len(z), len(dictionary)))
  for _ in range(steps):
    gradient = (codes @ dictionary - z) @ dictionary.T
    codes = np.maximum(codes - eta * gradient - eta * lam, 0)
  return codes


def crate_block(x, p, steps=2, eta=0.1, lam=0.1, edit=lambda codes: codes):
  u = layer_norm(x, p["norm_1"]["scale"], p["norm_1"]["bias"])
  mixing = p["mixing"]
  y = mixing["output_bias"].copy()[None]
  for head in range(mixing["subspaces"].shape[1]):
    u_head = u @ mixing["subspaces"][:, head]
    y = y + attend(u_head, u_head, u_head) @ mixing["output"][head]
  z = layer_norm(x + y, p["norm_2"]["scale"], p["norm_2"]["bias"])
  dictionary = p["features"]["dictionary"]
  return edit(ista(z, dictionary, steps, eta, lam)) @ dictionary


def gpt2_block(x, p, edit=lambda codes: codes):
  u = layer_norm(x, p["norm_1"]["scale"])
  for head in range(p["mixing"]["qkv"].shape[2]):
    q, k, v = (u @ p["mixing"]["qkv"][i][:, head] for i in range(3))
    x = x + attend(q, k, v) @ p["mixing"]["output"][head]
  z = layer_norm(x, p["norm_2"]["scale"])
  return x + edit(np.maximum(z @ p["features"]["encoder"], 0)) @ p["features"]["decoder"]


def logits(params: Tree, tokens, architecture, edit=lambda layer, codes: codes, **ista_options):
  """Logits (T, V) of one sequence; `edit` sees, and may replace, every layer's codes (T, C)."""
  x = params["tokens"][tokens] + params["positions"][: len(tokens)]
  for layer in range(len(params["blocks"]["norm_1"]["scale"])):
    p = pick(params["blocks"], layer)
    block = {"crate": crate_block, "gpt2": gpt2_block}[architecture]
    x = block(x, p, edit=functools.partial(edit, layer), **ista_options)
  x = layer_norm(x, params["norm"]["scale"], params["norm"].get("bias"))
  return x @ params["tokens"].T


def loss(params: Tree, windows, architecture):
  """Mean cross-entropy of the last T of each window's T + 1 tokens."""
  total = []
  for window in windows:
    out = logits(params, window[:-1], architecture)
    top = out.max(-1)
    log_sum = top + np.log(np.exp(out - top[:, None]).sum(-1))
    total.append(log_sum - out[np.arange(len(out)), window[1:]])
  return np.mean(total)


def wide(tree):
  """A tree of float64 arrays."""
  if isinstance(tree, dict):
    return {key: wide(value) for key, value in tree.items()}
  return np.asarray(tree, np.float64)


def pick(tree: Tree, layer: int):
  if isinstance(tree, dict):
    return {key: pick(value, layer) for key, value in tree.items()}
  return tree[layer]
