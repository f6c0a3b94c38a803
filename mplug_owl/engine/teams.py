"""The OpenMP workers of threads that have stopped computing. What is computed is not known here.

GNU's OpenMP, which PyTorch uses on Linux, keeps a team of workers for each thread that ever worked in parallel. As soon
as the teams of all threads outnumber the cores, no worker waits awake between two loops any more, and each loop begins
by waking them: single-stream decoding then takes half as long again.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch

_SOFT = 1  # omp_pause_soft: what was set stays set


@cache
def _runtime() -> ctypes.CDLL | None:
    """PyTorch's own copy of GNU's OpenMP; others do not throttle."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return ctypes.CDLL(str(found[0])) if found else None


def dismiss_team() -> None:
    """Let the workers of the calling thread go; they come back with its next parallel loop."""
    runtime = _runtime()
    if runtime is not None:
        runtime.omp_pause_resource_all(_SOFT)
