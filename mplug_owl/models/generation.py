"""What the library's `generate` must be told about owls; everything else is its own.

Media ids lie beyond the vocabulary, BLOOM counts ALiBi from a 2-D mask, and Owl2.1's rotary stretch is fixed by the
prompt.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BloomConfig, PreTrainedConfig
from transformers.generation import GenerationMixin, LogitsProcessorList
from transformers.masking_utils import create_masks_for_generate


class WideLogitsProcessors(LogitsProcessorList):
    """Lets processors that index scores by prompt ids meet the media ids, which lie beyond the vocabulary."""

    def __init__(self, processors: LogitsProcessorList, extra: int) -> None:
        super().__init__(processors)
        self.extra = extra

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        wide = F.pad(scores, (0, self.extra), value=float("-inf"))
        return super().__call__(input_ids, wide, **kwargs)[:, : scores.shape[-1]]


class OwlGenerationMixin(GenerationMixin):
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The library's `generate`, with Owl2.1's rotary stretch fixed once from the whole prompt."""
        decoder = self.model.language_model
        prompt = kwargs.get("input_ids", inputs)
        if hasattr(decoder, "ntk_alpha") and prompt is not None and kwargs.get("ntk_alpha") is None:
            mask = kwargs.get("attention_mask")
            mask = torch.ones_like(prompt) if mask is None else mask
            kwargs["ntk_alpha"] = decoder.ntk_alpha(mask.sum(-1))
        return super().generate(inputs, **kwargs)

    def create_masks_for_generate(self, config: PreTrainedConfig, **kwargs: Any) -> Tensor | dict | None:
        """What a static cache needs: 4-D masks, but for BLOOM the 2-D one that ALiBi is counted from."""
        if not isinstance(config.get_text_config(), BloomConfig):
            return create_masks_for_generate(config=config, **kwargs)
        mask = kwargs["attention_mask"]
        if mask is None or mask.ndim == 4:
            return mask
        return F.pad(mask, (0, kwargs["past_key_values"].get_max_length() - mask.shape[-1]))

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        processors = super()._get_logits_processor(*args, **kwargs)
        highest = max(self.config.image_token_id, self.config.video_token_id)
        extra = highest + 1 - self.config.text_config.vocab_size
        return WideLogitsProcessors(processors, extra) if processors and extra > 0 else processors
