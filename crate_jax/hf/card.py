"""The model card of an exported model."""

from pathlib import Path

from crate_jax.model import activations, lm
from crate_jax.run import Run
from crate_jax.training import workdir as files

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- crate_jax
- white-box
---

A language model of the CRATE family, trained and exported with crate_jax.

| | |
|---|---|
TABLE

It comes with code of its own, which is two files of this folder; read them before you run them:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("FOLDER", trust_remote_code=True)
```

The neurons are the output of a module, so that a forward hook sees them, and replaces them by
returning a tensor. The model sees at most its context of tokens. `<|endoftext|>` ends a document,
and is what a text without a context follows; text that spells it out is text.
"""


def text(run: Run, workdir: Path) -> str:
  """The model card of a run's model, with the numbers of its result.json if there are any."""
  m = run.config.model
  hook = {"ista": "ista.A", "mlp": "mlp.A", "topk": "mlp.A", "none": ""}[m.features]
  neurons = f"transformer.h.N.{hook}{m.code_steps}" if hook else "none: it has no feature step"
  if hook:
    neurons = f"{activations.neurons(m)}, {m.codes:,} a layer: the output of `{neurons}`"
  facts = {
    "architecture": f"{m.architecture}: {m.layers} layers of width {m.width}, {m.heads} heads",
    "parts": f"mixing {m.mixing}, features {m.features}, decoder {m.decoder}, "
    f"residual {m.residual}, bias {m.bias}",
    "parameters": f"{lm.count_parameters(m)['total']:,}, positions not counted",
    "context": f"{m.context:,} tokens",
    "vocabulary": f"{run.tokenizer.vocab_size:,} tokens, {m.vocab_size:,} rows",
    "neurons": neurons,
    "step": f"{run.step:,}",
    "text": run.data["text"],
    **_results(run, workdir),
  }
  table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
  return _CARD.replace("TABLE", table)


def _results(run: Run, workdir: Path) -> dict[str, str]:
  """What the run's result.json says of this model, if it does."""
  result = files.read_result(workdir, run.step)
  if result is None:
    return {"results": f"none: the run had no {files.RESULT} of step {run.step:,} when exported"}
  return {
    "training tokens": f"{result['tokens']:,}",
    "validation loss": f"{result['val_loss']} nats per token, {result['bits_per_byte']} bits per "
    f"byte, over {result['val_tokens']:,} tokens",
    "training loss": f"{result['train_loss']} nats per token",
    "trained by": f"crate_jax at commit {result['commit']}",
  }
