"""A model as a folder that Hugging Face transformers loads."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from crate_jax.data.tokenizer import END_OF_TEXT
from crate_jax.hf import card, folder, names
from crate_jax.run import Run
from crate_jax.training import workdir as files

CODE = ("configuration_crate.py", "modeling_crate.py")


def write(run: Run, workdir: Path, out: Path) -> None:
  """Writes a run's model.

  Args:
    run: the model.
    workdir: its run's folder, whose result.json the model card quotes.
    out: the folder to write; if it is there, it must be empty.

  Raises:
    UserError: `out` holds something.
  """
  with folder.new(out, "out") as new:
    files.write_json(new / names.CONFIG, _config(run))
    for name in CODE:
      shutil.copyfile(Path(__file__).with_name(name), new / name)
    weights = names.to_torch(run.params, run.config.model)
    save_file(weights, new / names.WEIGHTS, metadata={"format": "pt"})
    _write_tokenizer(run, new)
    files.write_json(new / "generation_config.json", _generation_config(run))
    (new / names.CARD).write_text(card.text(run, workdir), "utf-8")


def _config(run: Run) -> dict[str, Any]:
  """config.json: the model's keys, and what transformers wants to know."""
  keys = dataclasses.asdict(run.config.model)
  keys = {names.RENAMED.get(key, key): keys[key] for key in keys if key not in names.LEFT_OUT}
  end = run.tokenizer.end_of_text
  return {
    "architectures": ["CrateForCausalLM"],
    "auto_map": {
      "AutoConfig": "configuration_crate.CrateConfig",
      "AutoModel": "modeling_crate.CrateModel",
      "AutoModelForCausalLM": "modeling_crate.CrateForCausalLM",
    },
    "model_type": "crate",
    "dtype": str(run.params["tokens"].dtype),
    "tie_word_embeddings": True,
    **{f"{kind}_token_id": end for kind in ("bos", "eos", "pad")},
    **keys,
  }


def _write_tokenizer(run: Run, new: Path) -> None:
  run.tokenizer.save(new / names.TOKENIZER)
  tokens = {f"{kind}_token": END_OF_TEXT for kind in ("bos", "eos", "unk", "pad")}
  description = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    **tokens,
    "model_max_length": run.config.model.context,
    "model_input_names": ["input_ids", "attention_mask"],
    "padding_side": "left",
    "clean_up_tokenization_spaces": False,
    # Text that spells the end-of-text token out is text, as for crate_jax.
    "split_special_tokens": True,
  }
  files.write_json(new / "tokenizer_config.json", description)


def _generation_config(run: Run) -> dict[str, Any]:
  end, padded = run.tokenizer.end_of_text, run.config.model.vocab_size
  made: dict[str, Any] = {f"{kind}_token_id": end for kind in ("bos", "eos", "pad")}
  if padded > run.tokenizer.vocab_size:  # rows of the embedding that are no token
    made["suppress_tokens"] = list(range(run.tokenizer.vocab_size, padded))
  return made
