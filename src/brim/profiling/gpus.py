"""Public figures of common GPUs: NVIDIA's data sheets, dense BF16 with FP32 accumulation (no sparsity)."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from brim.core.errors import ConfigError
from brim.profiles.loader import Memory
from brim.profiling.models import ModelSizes

GIB = 1 << 30
ACTIVATION_BYTES = 2 * GIB  # per GPU: activations of a step, CUDA graphs, what the allocator wastes


@dataclass(frozen=True, slots=True)
class Gpu:
    """`flops`: FLOP/s; `bandwidth`: bytes/s of its memory; `link`: bytes/s to other GPUs, one direction."""

    name: str
    flops: float
    bandwidth: float
    memory_bytes: int
    link: float
    source: str


PCIE_4, PCIE_5 = 32e9, 64e9  # x16, bytes/s in one direction
GPUS = {
    "a100-40g": Gpu("A100 SXM 40GB", 312e12, 1555e9, 40 * GIB, 300e9, "A100 data sheet"),
    "a100-80g": Gpu("A100 SXM 80GB", 312e12, 2039e9, 80 * GIB, 300e9, "A100 data sheet"),
    "h100": Gpu("H100 SXM 80GB", 989e12, 3350e9, 80 * GIB, 450e9, "H100 data sheet"),
    "h200": Gpu("H200 SXM 141GB", 989e12, 4800e9, 141_000_000_000, 450e9, "H200 data sheet"),
    "b200": Gpu("B200 SXM 180GB", 2250e12, 7700e9, 180_000_000_000, 900e9, "DGX B200 data sheet, per GPU"),
    "l4": Gpu("L4 24GB", 121e12, 300e9, 24 * GIB, PCIE_4, "L4 data sheet, halved from sparse"),
    "l40s": Gpu("L40S 48GB", 362e12, 864e9, 48 * GIB, PCIE_4, "L40S data sheet"),
    "a10g": Gpu("A10G 24GB", 70e12, 600e9, 24 * GIB, PCIE_4, "A10G (AWS g5) data sheet"),
    "rtx4090": Gpu("RTX 4090 24GB", 165.2e12, 1008e9, 24 * GIB, PCIE_4, "Ada GPU architecture paper"),
    "rtxpro6000": Gpu(
        "RTX PRO 6000 Blackwell 96GB",
        503.8e12,
        1792e9,
        96 * GIB,
        PCIE_5,
        "RTX PRO Blackwell architecture paper",
    ),
}


def gpu(name: str) -> Gpu:
    """Raises ConfigError for an unknown name, with the nearest one."""
    if name.lower() not in GPUS:
        close = get_close_matches(name.lower(), GPUS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"there is no GPU {name}: {hint}The known ones are {', '.join(GPUS)}")
    return GPUS[name.lower()]


def memory_of(gpu: Gpu, model: ModelSizes, tensor_parallel: int) -> Memory:
    """The bytes of `tensor_parallel` GPUs together."""
    return Memory(
        memory_bytes=gpu.memory_bytes * tensor_parallel,
        weight_bytes=model.weight_bytes,
        activation_bytes=ACTIVATION_BYTES * tensor_parallel,
        kv_bytes_per_token=model.kv_bytes_on(tensor_parallel),
    )
