"""Several prompts and their media as one batch: media in reading order, rows filled up.

Knows rows of ids and lists of pictures; nothing of tokenizers, templates or pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch

from mplug_owl.errors import RequestError


def arranged(kind: str, media: Any, depth: int, wanted: Sequence[int] | None) -> list[Any]:
    """The media of a batch in reading order, however the caller listed them.

    `depth` is that of one of them: 0 for a picture, 1 for a clip. `wanted` is how many each row has placeholders for;
    media listed row by row must agree with each, others with the sum.
    """
    levels = nesting(media) - depth
    if media is not None and levels not in (0, 1, 2):
        raise RequestError(f"{kind}s nested {levels} lists deep; expected a list of {kind}s, or one list a row")
    nested = levels == 2
    shares = [] if media is None else [media] if levels == 0 else list(media)
    flat = [item for share in shares for item in share] if nested else shares
    flat = [item for item in flat if not (isinstance(item, list | tuple) and not item)]
    if wanted is None:
        return flat
    have = [len(share) for share in shares] if nested else [len(flat)]
    if list(wanted) != have and (nested or sum(wanted) != len(flat)):
        raise RequestError(
            f"the text holds {counted(wanted)} {kind} placeholder(s), but {counted(have)} "
            f"{kind}(s) were given; expected one {kind} for each placeholder"
        )
    return flat


def nesting(media: Any) -> int:
    """How deep pictures lie: 0 for a picture, 1 for a list of them or an array of frames, ..."""
    if isinstance(media, list | tuple):
        return 1 + max(map(nesting, media), default=0)
    return max(getattr(media, "ndim", 0) - 3, 0)


def counted(numbers: Sequence[int]) -> str:
    """`3`, or `2 + 1` where there are several rows."""
    return " + ".join(map(str, numbers)) or "0"


def filled(
    rows: Sequence[tuple[list[int], list[bool]]],
    pad_id: int | None,
    *,
    padding: bool | str,
    side: str,
    max_length: int | None,
    return_tensors: str | None,
) -> dict[str, Any]:
    """`input_ids`, `attention_mask` and `assistant_masks` of rows of (ids, which are answers).

    `padding` is True (to the longest row), False or "max_length".
    """
    lengths = [len(ids) for ids, _ in rows]
    width = max(lengths, default=0)
    if max_length is not None and width > max_length:
        raise RequestError(f"a prompt of {width} positions; max_length allows {max_length}: shorten it")
    if side not in ("left", "right"):
        raise RequestError(f"padding_side={side!r}; expected 'left' or 'right'")
    if padding == "max_length" and max_length is not None:
        width = max_length
    elif padding not in (True, False, "longest"):
        raise RequestError(f"padding={padding!r}, max_length={max_length}; expected True, False or 'max_length'")
    if padding and width > min(lengths, default=0) and pad_id is None:
        raise RequestError("the tokenizer has no pad token; set processor.tokenizer.pad_token")
    columns: dict[str, list[list[int]]] = {name: [] for name in ("input_ids", "attention_mask", "assistant_masks")}
    for ids, target in rows:
        gap = width - len(ids) if padding else 0
        values = (ids, [1] * len(ids), [int(flag) for flag in target])
        for column, row, fill in zip(columns.values(), values, (pad_id, 0, 0), strict=True):
            column.append([fill] * gap + row if side == "left" else row + [fill] * gap)
    if return_tensors is None:
        return dict(columns)
    if return_tensors != "pt":
        raise RequestError(f"return_tensors={return_tensors!r}; expected 'pt' or None")
    if not padding and len(set(lengths)) > 1:
        raise RequestError(f"rows of {counted(lengths)} positions make no tensor; pass padding=True")
    return {name: torch.tensor(column, dtype=torch.long) for name, column in columns.items()}
