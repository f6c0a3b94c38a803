"""Attention masks of True and False in the form an attention implementation takes them."""

import torch
from torch import Tensor
from transformers import PreTrainedConfig


def as_attention_takes(mask_B1LM: Tensor, config: PreTrainedConfig, dtype: torch.dtype) -> Tensor:
    """sdpa applies such a mask as it is; eager attention adds it, and would add 0 and 1."""
    if mask_B1LM.dtype != torch.bool or config._attn_implementation != "eager":
        return mask_B1LM
    floor = torch.finfo(dtype).min
    return torch.zeros_like(mask_B1LM, dtype=dtype).masked_fill(~mask_B1LM, floor)
