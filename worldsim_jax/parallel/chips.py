"""What is known of the chips, from their vendors' data sheets.

None of it was measured by us. Bandwidths are of one chip, in one direction: the
bytes that it can send per second over all its links together.
"""

import os
from typing import NamedTuple


class Chip(NamedTuple):
  """One kind of device.

  Attributes:
    name: as in --topology=NAME:...
    kind: how JAX's `device_kind` begins.
    flops: dense bf16 FLOP/s (sparse figures are halved).
    memory: bytes that a program can use: where the compiler tells (TPUs), as it
      tells, else 0.97 of the data sheet's.
    memory_bandwidth: bytes/s.
    link_bandwidth: bytes/s to the chips of the same slice (or NVLink domain).
    dcn_bandwidth: bytes/s to other slices (or over InfiniBand).
    largest: the shape of the largest slice; () where there is no such thing.
  """
  name: str
  kind: str
  flops: float
  memory: float = 0.
  memory_bandwidth: float = 0.
  link_bandwidth: float = 0.
  dcn_bandwidth: float = 0.
  largest: tuple[int, ...] = ()


_GIB = 2**30
# Cloud TPU's documentation states the interconnect per chip as the sum of both
# directions; a host of 4 chips (8 for v5e and v6e) has a network of 200 Gbit/s.
CHIPS = (
    Chip('v4', 'TPU v4', 275e12, 31.75 * _GIB, 1228e9, 150e9, 6.2e9,
         (16, 16, 16)),
    Chip('v5e', 'TPU v5 lite', 197e12, 15.75 * _GIB, 819e9, 100e9, 3.1e9,
         (16, 16)),
    Chip('v5e', 'TPU v5e', 197e12, 15.75 * _GIB, 819e9, 100e9, 3.1e9, (16, 16)),
    # JAX calls v5p both 'TPU v5' and 'TPU v5p'.
    Chip('v5p', 'TPU v5', 459e12, 95.74 * _GIB, 2765e9, 300e9, 6.2e9,
         (16, 20, 28)),
    Chip('v6e', 'TPU v6', 918e12, 31.25 * _GIB, 1640e9, 224e9, 3.1e9, (16, 16)),
    Chip('tpu7x', 'TPU7x', 1153e12, 94.75 * _GIB, 3690e9, 300e9, 6.2e9,
         (16, 24, 24)),
    Chip('h100-pcie', 'NVIDIA H100 PCIe', 756e12),
    Chip('h100-nvl', 'NVIDIA H100 NVL', 835e12),
    Chip('h100', 'NVIDIA H100', 989e12, 0.97 * 79.1 * _GIB, 3352e9, 450e9,
         50e9),
    Chip('h200', 'NVIDIA H200', 989e12, 0.97 * 140 * _GIB, 4800e9, 450e9, 50e9),
    Chip('a100', 'NVIDIA A100', 312e12, 0.97 * 79.1 * _GIB, 2039e9, 300e9,
         25e9),
)


def of_kind(device_kind: str) -> Chip | None:
  """The chip that JAX calls so, or None."""
  for chip in CHIPS:
    if device_kind.startswith(chip.kind):
      return chip
  return None


def of_name(name: str) -> Chip | None:
  """The chip of a topology's name, or None."""
  if name == 'cpu':
    return this_cpu(1)
  return next((chip for chip in CHIPS if chip.name == name), None)


def this_cpu(num_devices: int) -> Chip:
  """A share of this machine; its speed is not known."""
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return Chip('cpu', 'cpu', 0., memory / num_devices)
