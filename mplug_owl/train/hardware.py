"""What an accelerator can do: peak arithmetic, memory and bandwidth, from the makers' data sheets.

Dense figures, without sparsity, of the SXM form where there are several. The plan divides by them; nothing here
measures anything.
"""

import os
from dataclasses import dataclass

from mplug_owl.errors import ConfigError, did_you_mean

GIB = 2**30
USABLE = 0.95  # of the memory: the allocator loses the rest between blocks of unlike sizes
CONTEXT = GIB  # taken before the first tensor: driver context, library workspaces, collectives


@dataclass(frozen=True)
class Accelerator:
    name: str
    peak: dict[str, float]
    """FLOP/s by compute dtype."""
    memory: int
    """Bytes a program can allocate."""
    bandwidth: float
    """Bytes/s between memory and cores."""

    @property
    def room(self) -> int:
        """Bytes for tensors."""
        return int(USABLE * self.memory) - CONTEXT


def _row(name: str, bf16: float, fp32: float, fp64: float, gib: float, gb_per_s: float) -> Accelerator:
    peak = {"bfloat16": bf16 * 1e12, "float32": fp32 * 1e12, "float64": fp64 * 1e12}
    return Accelerator(name, peak, int(gib * GIB), gb_per_s * 1e9)


def _cpu() -> Accelerator:
    """This machine: all of its memory, and a modest core's arithmetic times the cores it has.

    Per core 400 GFLOP/s in bfloat16 (AVX512-BF16) and 100 in float32; older cores are slower, and those with matrix
    units several times faster.
    """
    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _row("CPU", 0.4 * cores, 0.1 * cores, 0.05 * cores, memory / GIB, 40)


# TFLOP/s in bfloat16 (tensor cores), float32 (vector cores: TF32 is not switched on), float64; GiB; GB/s.
_ROWS = (
    # NVIDIA A100 Tensor Core GPU data sheet (2021)
    _row("A100-40", 312, 19.5, 9.7, 39.4, 1555),
    _row("A100-80", 312, 19.5, 9.7, 79.2, 2039),
    # NVIDIA H100 Tensor Core GPU data sheet, SXM column; bfloat16 there is given with sparsity
    _row("H100", 989.4, 67, 34, 79.1, 3350),
    # NVIDIA H200 Tensor Core GPU data sheet, SXM column
    _row("H200", 989.4, 67, 34, 139.8, 4800),
    # NVIDIA HGX B200 data sheet, one of eight GPUs
    _row("B200", 2250, 75, 37, 178.4, 7700),
    # NVIDIA L40S data sheet
    _row("L40S", 362, 91.6, 1.4, 44.4, 864),
    # NVIDIA Ada GPU architecture paper, appendix A; bfloat16 with float32 accumulation
    _row("RTX4090", 165.2, 82.6, 1.3, 23.5, 1008),
    _cpu(),
)
ACCELERATORS = {row.name: row for row in _ROWS}


def accelerator(name: str) -> Accelerator:
    """The row called `name`, whatever its case and dashes, or an error that suggests one."""
    plain = {known.replace("-", "").upper(): row for known, row in ACCELERATORS.items()}
    try:
        return plain[name.replace("-", "").replace(" ", "").upper()]
    except KeyError:
        raise ConfigError(f"unknown gpu {name!r}{did_you_mean(name, ACCELERATORS)}") from None
