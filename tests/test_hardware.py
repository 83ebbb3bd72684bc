import types

import jax
import pytest

from crate_jax.training import hardware


@pytest.mark.parametrize(
  ("kind", "tflops", "page"),
  [
    ("TPU v4", 275, "v4"),
    ("TPU v5 lite", 197, "v5e"),
    ("TPU v5", 459, "v5p"),
    ("TPU v5p", 459, "v5p"),
    ("TPU v6 lite", 918, "v6e"),
    ("NVIDIA A100-SXM4-80GB", 312, "A100"),
    ("NVIDIA H100 80GB HBM3", 989, "H100"),
    ("NVIDIA H200", 989, "H200"),
  ],
)
def test_peaks_have_a_source(kind, tflops, page):
  found = hardware.peaks(types.SimpleNamespace(device_kind=kind))
  assert found.flops == tflops * 1e12 and page in found.source
  # Bytes, and bytes a second, of their usual order.
  assert 1e10 < found.memory < 1e12 < found.memory_bandwidth * 2 < 2e13
  assert 1e11 < found.link_bandwidth < 1e12


def test_nothing_is_made_up_for_others():
  assert hardware.peaks(jax.devices()[0]) is None
  for other in ("NVIDIA GeForce", "NVIDIA A100-PCIE-40GB", "NVIDIA H100 PCIe"):
    assert hardware.peaks(types.SimpleNamespace(device_kind=other)) is None
