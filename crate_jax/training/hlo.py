"""What a compiled program moves between devices and through memory, read from XLA's own text.

XLA's cost analysis counts the body of a loop once. Here every computation counts as often as it
runs: a loop's body times its trip count.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*?)\)(.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"\b(?:body|condition|calls|to_apply)=%?([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation: what it makes, how, of what, and the rest of the line."""

  name: str
  shape: str
  opcode: str
  arguments: str
  rest: str

  @property
  def operands(self) -> list[str]:
    """Names of the instructions that it works on."""
    return re.findall(r"%([\w.-]+)", self.arguments)


@dataclasses.dataclass(frozen=True)
class Collective:
  """An exchange between devices.

  Attributes:
    kind: one of `COLLECTIVES`, or "send" between slices.
    shape: of what comes out on one device, as XLA writes it.
    result_bytes: of that.
    group: devices that exchange with each other.
    crosses_slices: whether a group spans more than one TPU slice.
    times: how often it runs in one call of the program.
    in_loop: whether it lies in the body of a loop.
    source: the JAX operations that it comes from.
  """

  kind: str
  shape: str
  result_bytes: int
  group: int
  crosses_slices: bool
  times: int
  in_loop: bool
  source: str

  @property
  def sent_bytes(self) -> float:
    """Bytes that a device sends in one run of it, by the best algorithm (a ring)."""
    others = (self.group - 1) / self.group
    scale = {
      "all-reduce": 2 * others,
      "reduce-scatter": self.group - 1,  # of the result, which is a part of what is reduced
      "collective-permute": 1,
      "send": 1,
    }
    return scale.get(self.kind, others) * self.result_bytes

  @property
  def dimensions(self) -> list[tuple[int, ...]]:
    """The dimensions of each array in its result."""
    return [
      tuple(int(size) for size in sizes.split(",") if size)
      for _, sizes, _ in _SHAPE.findall(self.shape)
    ]


class Program:
  """The text of a compiled program, as computations by name."""

  def __init__(self, text: str, *, slice_devices: int | None = None) -> None:
    """Parses it.

    Args:
      text: `jax.stages.Compiled.as_text()`.
      slice_devices: devices of one TPU slice; None if there is just one.
    """
    self._slice_devices = slice_devices
    self.computations: dict[str, list[Instruction]] = {}
    self.entry, current = "", None
    for line in re.sub(r"/\*index=\d+\*/", "", text).splitlines():
      if match := _COMPUTATION.match(line):
        current = self.computations.setdefault(match[2], [])
        self.entry = match[2] if match[1] else self.entry
      elif current is not None and (match := _INSTRUCTION.match(line)):
        current.append(Instruction(*match.groups()))

  def collectives(self) -> list[Collective]:
    """All exchanges of the program, each with how often it runs."""
    found = []
    for instruction, times, in_loop, caller in self._walk(self.entry, 1, False, ""):
      kind = instruction.opcode.removesuffix("-start")
      if kind == "send" and "megascale" in instruction.rest:  # from slice to slice, by the hosts
        part = _SHAPE.search(instruction.shape)
        assert part, instruction
        found.append(
          Collective(
            kind, part[0], _size(part[0]), 2, True, times, in_loop, _source(instruction.rest)
          )
        )
        continue
      if kind not in COLLECTIVES or _is_echo(caller):
        continue
      shape = instruction.shape
      if instruction.opcode.endswith("-start") and kind != "all-reduce":
        shape = _elements(shape)[1]  # (operands, results, ...)
      # XLA for TPUs writes a reduce-scatter as a fusion of this name, of an all-reduce and a slice.
      size = _size(shape)
      members = _groups(instruction.rest)
      if " all-reduce-scatter" in caller:
        kind, size = "reduce-scatter", size // len(members[0])
      found.append(
        Collective(
          kind=kind,
          shape=shape,
          result_bytes=size,
          group=len(members[0]),
          crosses_slices=self._crosses(members),
          times=times,
          in_loop=in_loop,
          source=_source(instruction.rest),
        )
      )
    return [collective for collective in found if collective.group > 1]

  def memory_bytes(self) -> float:
    """Bytes that a device's instructions read from its memory and write to it.

    What a fusion cuts out of an array, or writes into one, counts as the part that it is; what XLA
    has placed in a TPU's on-chip memory does not count.
    """
    total = 0.0
    for name, times in self._top_level(self.entry, 1):
      instructions = self.computations[name]
      shapes = {instruction.name: instruction.shape for instruction in instructions}
      total += times * sum(self._traffic(instruction, shapes) for instruction in instructions)
    return total

  def _traffic(self, instruction: Instruction, shapes: dict[str, str]) -> int:
    free = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "iota")
    if instruction.opcode in (*free, "conditional", "call") or instruction.opcode.endswith("-done"):
      return 0
    if instruction.opcode in ("copy-start", "slice-start"):  # (result, operand, ...) or reversed
      both = _arrays(instruction.shape)[:2]
      moved = min(size for size, _ in both)
      return sum(moved for _, on_chip in both if not on_chip)
    operands = [_size(shapes.get(name, ""), on_chip=False) for name in instruction.operands]
    result = _size(instruction.shape, on_chip=False)
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
      return 2 * result
    if instruction.opcode == "dynamic-update-slice":
      return 2 * operands[1]
    if instruction.opcode.endswith("-start"):  # its result holds its operands once more
      return sum(operands) + max(result - sum(operands), 0)
    if instruction.opcode != "fusion":
      return sum(operands) + result
    (called,) = _CALLED.findall(instruction.rest)[:1]
    for number, parameter in _parameters(self.computations[called]):
      read, written = self._touched(called, parameter)
      if read is None:
        continue
      if written is not None:
        result -= max(operands[number] - written, 0)
      operands[number] = min(operands[number], read)
    return sum(operands) + max(result, 0)

  def _touched(self, name: str, value: str) -> tuple[int | None, int | None]:
    """Bytes that a fused computation reads of a value, and those it writes into it in place.

    None for all of it, and for none.
    """
    read, written = 0, None
    inside = self.computations[name]
    for user in (other for other in inside if value in other.operands):
      if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == value:
        read += _size(user.shape)
        continue
      if user.opcode == "dynamic-update-slice" and user.operands[0] == value:
        written = (written or 0) + _size(_shape_of(inside, user.operands[1]))
        continue
      if user.opcode == "bitcast":
        deeper = self._touched(name, user.name)
      elif user.opcode == "fusion":
        (called,) = _CALLED.findall(user.rest)[:1]
        parameters = dict(_parameters(self.computations[called]))
        deeper = self._touched(called, parameters[user.operands.index(value)])
      else:
        return None, None
      if deeper[0] is None:
        return None, None
      read += deeper[0]
      if deeper[1] is not None:
        written = (written or 0) + deeper[1]
    return read, written

  def _walk(
    self, name: str, times: int, in_loop: bool, caller: str
  ) -> Iterator[tuple[Instruction, int, bool, str]]:
    """Every instruction that runs, with how often, whether in a loop, and what called it."""
    for instruction in self.computations.get(name, []):
      yield instruction, times, in_loop, caller
      loops = instruction.opcode == "while"
      count = times * (self._trips(instruction) if loops else 1)
      for called in _CALLED.findall(instruction.rest):
        yield from self._walk(called, count, in_loop or loops, f"{instruction.name} {called}")

  def _top_level(self, name: str, times: int) -> Iterator[tuple[str, int]]:
    """The entry and the bodies of loops, with how often they run; not what is fused."""
    yield name, times
    for instruction in self.computations.get(name, []):
      if instruction.opcode in ("while", "call", "conditional"):
        count = times * (self._trips(instruction) if instruction.opcode == "while" else 1)
        for called in _CALLED.findall(instruction.rest):
          yield from self._top_level(called, count)

  def _trips(self, loop: Instruction) -> int:
    """How often a loop's body runs: what XLA knows, or the bound in its condition."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
      return int(known[1])
    condition = re.search(r"condition=%?([\w.-]+)", loop.rest)
    inside = self.computations.get(condition[1], []) if condition else []
    constants = [other.arguments for other in inside if other.opcode == "constant"]
    return max((int(bound) for bound in constants if bound.isdigit()), default=1)

  def _crosses(self, members: list[tuple[int, ...]]) -> bool:
    size = self._slice_devices
    return bool(size) and any(len({i // size for i in group}) > 1 for group in members)  # type: ignore[operator]


def _is_echo(caller: str) -> bool:
  """Whether a TPU's collective was counted where it starts: it is named again where it ends."""
  return "async-collective-done" in caller or " async_collective_fusion" in caller


def _source(rest: str) -> str:
  match = re.search(r'op_name="([^"]*)"', rest)
  return match[1] if match else ""


def _arrays(shape: str) -> list[tuple[int, bool]]:
  """Bytes of every array of a shape, and whether it lies in on-chip memory."""
  arrays = []
  for kind, sizes, layout in _SHAPE.findall(shape):
    bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind.partition("e")[0]) or 0)
    count = math.prod(int(size) for size in sizes.split(",") if size)
    arrays.append((count * bits // 8, re.search(r"S\([1-9]", layout) is not None))
  return arrays


def _size(shape: str, *, on_chip: bool = True) -> int:
  return sum(size for size, there in _arrays(shape) if on_chip or not there)


def _elements(shape: str) -> list[str]:
  """The elements of a tuple, which may be tuples themselves."""
  elements, depth, start = [], 0, 1
  for i, letter in enumerate(shape):
    depth += (letter in "([{") - (letter in ")]}")
    if (letter == "," and depth == 1) or (letter == ")" and depth == 0):
      elements.append(shape[start:i].strip())
      start = i + 1
  return elements


def _parameters(instructions: list[Instruction]) -> list[tuple[int, str]]:
  return [(int(i.arguments), i.name) for i in instructions if i.opcode == "parameter"]


def _shape_of(instructions: list[Instruction], name: str) -> str:
  return next((other.shape for other in instructions if other.name == name), "")


def _groups(rest: str) -> list[tuple[int, ...]]:
  """The groups of devices that exchange with each other, by their places in the mesh."""
  if match := re.search(r"source_target_pairs=\{(\{.*?\})\}", rest):
    return _listed(match[1])
  if match := re.search(r"replica_groups=\{(\{.*?\})\}", rest):
    return _listed(match[1])
  if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
    sizes = [int(size) for size in match[3].split(",")]
    order = [int(axis) for axis in (match[4] or "").split(",") if axis] or range(len(sizes))
    places = np.arange(math.prod(sizes)).reshape(sizes).transpose(order)
    return [tuple(group) for group in places.reshape(int(match[1]), int(match[2])).tolist()]
  if match := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
    sizes, split = [], []
    for name, size in re.findall(r"'(\w+)'=(\d+)", match[1]):
      part = re.search(rf"'{name}'(?::\((\d+)\)(\d+))?", match[2])
      if part and part[1]:  # a part of the axis: (elements before it) its size
        before, inner = int(part[1]), int(part[2])
        sizes += [before, inner, int(size) // before // inner]
        split += [False, True, False]
      else:
        sizes.append(int(size))
        split.append(part is not None)
    inside = [axis for axis, is_split in enumerate(split) if is_split]
    outside = [axis for axis, is_split in enumerate(split) if not is_split]
    places = np.arange(math.prod(sizes)).reshape(sizes).transpose(outside + inside)
    members = math.prod(sizes[axis] for axis in inside)
    return [tuple(group) for group in places.reshape(-1, members).tolist()]
  return [(0,)]


def _listed(text: str) -> list[tuple[int, ...]]:
  return [
    tuple(int(i) for i in group.split(",") if i) for group in re.findall(r"\{([^}]*)\}", text)
  ]
