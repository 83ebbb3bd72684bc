"""A preparation as an Apache Beam pipeline: the same units, shards and manifest, on a cluster."""

from collections.abc import Iterable, Iterator
from typing import Any

from crate_jax.data import local, preparation
from crate_jax.data.preparation import Encoded, Preparation, Unit
from crate_jax.data.sources import Part
from crate_jax.data.splits import Selection
from crate_jax.errors import UserError

try:
  import apache_beam
  from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
  raise UserError(
    "--beam needs Apache Beam: run EXTRAS=beam launch/local.sh, or pip install 'crate_jax[beam]'."
  ) from error


def prepare(work: Preparation, options: list[str]) -> dict[str, Any]:
  """As `local.prepare`, with every part, unit and shard an element of its own.

  Args:
    work: what to prepare; its folder and sources must lie where every worker sees them.
    options: flags of Beam's pipeline options; none runs on this machine.

  Raises:
    UserError: a source cannot be read, or a split has no document.
  """
  if not work.finished:
    with apache_beam.Pipeline(options=PipelineOptions(options)) as pipeline:
      for chosen in work.selections:
        _add_split(pipeline, work, chosen)
    return work.finish()
  return local.prepare(work)


def _add_split(pipeline: Any, work: Preparation, chosen: Selection) -> None:
  split, source = chosen.split, chosen.source

  def read(entry: tuple[int, Part]) -> Iterator[Unit]:
    return preparation.units(source, *entry)

  def keyed(unit: Unit, encode: preparation.Encoder) -> tuple[Any, Any]:
    key = unit.part, unit.number // preparation.SHARD_UNITS
    return key, (unit.number, unit.last, encode(unit))

  def write(entry: tuple[tuple[int, int], Iterable[tuple[int, bool, Encoded]]]) -> None:
    (part, number), encoded = entry
    in_order = sorted(encoded, key=lambda one: one[0])
    last = any(one[1] for one in in_order)
    work.write_shard(split, part, number, [one[2] for one in in_order], last)

  left = [
    (index, part)
    for index, part in enumerate(work.parts[split])
    if not (done := work.records(split, index)) or not done[-1]["last"]
  ]
  _ = (
    pipeline
    | f"{split}: parts" >> apache_beam.Create(left, reshuffle=True)
    | f"{split}: read" >> apache_beam.FlatMap(read)
    | f"{split}: spread" >> apache_beam.Reshuffle()
    | f"{split}: tokenise" >> apache_beam.Map(keyed, encode=work.encoder(chosen))
    | f"{split}: gather" >> apache_beam.GroupByKey()
    | f"{split}: write" >> apache_beam.Map(write)
  )
