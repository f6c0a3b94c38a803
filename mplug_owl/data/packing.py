"""Whole samples into rows: which samples share a row, and the tensors of such rows.

A row ends before its tokens or its pictures exceed their budgets; no sample is ever cut or split. Inside a row each
sample is a segment with positions from 0 and attention to itself alone, so a packed row learns what its samples would
alone. Where samples come from is not known here.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mplug_owl.data.encode import IGNORED, Encoded

_MULTIPLE = 64  # rows end at one of these, so that a run meets few shapes


def pack(tokens: Sequence[int], images: Sequence[int], *, max_tokens: int, max_images: int) -> list[list[int]]:
    """Rows of indices into the samples, whose sizes are given; first fit, the longest first.

    A sample with more than `max_images` has a row of its own. In a row samples keep their order, and rows are in the
    order of their first samples.
    """
    count = len(tokens)
    free_tokens = np.full(count, max_tokens)
    free_images = np.full(count, max_images)
    rows: list[list[int]] = []
    for index in sorted(range(count), key=lambda i: (-tokens[i], i)):
        opened = len(rows)
        fits = (free_tokens[:opened] >= tokens[index]) & (free_images[:opened] >= images[index])
        row = int(fits.argmax()) if fits.any() else opened
        if row == opened:
            rows.append([])
        rows[row].append(index)
        free_tokens[row] -= tokens[index]
        free_images[row] -= images[index]
    return sorted(sorted(row) for row in rows)


def lay_out(rows: Sequence[Sequence[Encoded]], pad_id: int) -> dict[str, Tensor]:
    """`input_ids`, `labels`, `position_ids` and `segments` [rows, length]; a row may be empty.

    Segments count from 1, 0 is padding. The first position of a sample is never learnt: nothing stands before it that
    could tell.
    """
    longest = max((sum(len(sample.ids) for sample in row) for row in rows), default=0)
    length = max(-(-longest // _MULTIPLE), 1) * _MULTIPLE
    fills = {"input_ids": pad_id, "labels": IGNORED, "position_ids": 0, "segments": 0}
    out = {name: torch.full((len(rows), length), fill) for name, fill in fills.items()}
    for number, row in enumerate(rows):
        start = 0
        for segment, sample in enumerate(row, 1):
            place = (number, slice(start, start + len(sample.ids)))
            out["input_ids"][place] = torch.tensor(sample.ids)
            out["labels"][place] = torch.tensor([IGNORED, *sample.labels[1:]])
            out["position_ids"][place] = torch.arange(len(sample.ids))
            out["segments"][place] = segment
            start += len(sample.ids)
        out["position_ids"][number, start:] = torch.arange(length - start)
    return out


def block_diagonal(segments: Tensor) -> Tensor:
    """[rows, length] -> which positions see which, bool [rows, 1, length, length].

    Padding is a segment like others, so that no position is left without anything to see: its attention would be NaN.
    """
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return same.tril_()
