"""Next-token loss over supervised labels, exact whatever the batch was cut into."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # label of a position that is not learnt from


def token_loss(logits_BLV: Tensor, labels_BL: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Next-token cross entropy over supervised labels: their mean, or their sum over `num_items_in_batch`.

    A batch without a supervised label gives 0 and zero gradients, where the mean would be NaN.
    """
    logits = logits_BLV[:, :-1].flatten(0, 1)
    labels = labels_BL[:, 1:].flatten().to(logits.device)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    if num_items_in_batch is None:
        num_items_in_batch = (labels != IGNORED).sum().clamp(min=1)
    return total / num_items_in_batch
