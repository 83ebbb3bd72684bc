"""What accelerators can do at most, by their makers: the denominators of every utilisation."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Peaks:
  """The most that one device can do.

  Attributes:
    flops: dense bfloat16 operations per second.
    memory: bytes.
    memory_bandwidth: bytes per second from and to it.
    link_bandwidth: bytes per second that it sends to other devices near it, over all its links.
    source: where the numbers stand.
  """

  flops: float
  memory: float
  memory_bandwidth: float
  link_bandwidth: float
  source: str


_TPU = "docs.cloud.google.com/tpu/docs/{}: the page's two-way link bandwidth, halved"
_NVIDIA = "NVIDIA's data sheet of the {}: dense bf16; its two-way NVLink bandwidth, halved"

# By what `jax.Device.device_kind` begins with; the first that fits.
PEAKS: tuple[tuple[str, Peaks], ...] = (
  ("TPU v4", Peaks(275e12, 32e9, 1.228e12, 300e9, _TPU.format("v4"))),
  ("TPU v5 lite", Peaks(197e12, 16e9, 819e9, 200e9, _TPU.format("v5e"))),
  ("TPU v5", Peaks(459e12, 95e9, 2.765e12, 600e9, _TPU.format("v5p"))),
  ("TPU v6 lite", Peaks(918e12, 32e9, 1.638e12, 400e9, _TPU.format("v6e"))),
  ("NVIDIA A100-SXM4-80GB", Peaks(312e12, 80e9, 2.039e12, 300e9, _NVIDIA.format("A100 SXM 80 GB"))),
  ("NVIDIA H100 80GB HBM3", Peaks(989e12, 80e9, 3.35e12, 450e9, _NVIDIA.format("H100 SXM"))),
  ("NVIDIA H200", Peaks(989e12, 141e9, 4.8e12, 450e9, _NVIDIA.format("H200 SXM"))),
)
SLICE_BANDWIDTH = 6.25e9  # bytes per second of a chip between TPU slices: 6.4 Tbit/s of 128 chips


def peaks(device: jax.Device) -> Peaks | None:
  """The peaks of a device, None if they are not known (a CPU's are not)."""
  for kind, numbers in PEAKS:
    if device.device_kind.startswith(kind):
      return numbers
  return None
