"""A program's loss, differentiated by torch, as the runtime asks for it."""

from typing import NamedTuple

import numpy as np
import torch


class LossChunk(NamedTuple):
    """Where the logits of a call are from: a micro-batch of N tokens, of which R predict."""

    step: int  # counted from 0; -1: of an evaluation
    micro_batch: int
    token_ids: np.ndarray  # [N], int32
    positions: np.ndarray  # [R], int32, ascending: the token that predicts labels' own


def sum_of(loss):
    """`loss` as _sluice calls it: returns a float, and writes the gradient over the logits where it is wanted."""
    def called(logits, labels, positions, token_ids, step, micro_batch, wants_gradient):
        labels = torch.from_numpy(labels.astype(np.int64)).to(logits.device)
        chunk = LossChunk(step, micro_batch, token_ids, positions)
        with torch.set_grad_enabled(wants_gradient):
            leaf = logits.detach().requires_grad_(wants_gradient)
            total = loss(leaf, labels, chunk)
            if not isinstance(total, torch.Tensor) or total.numel() != 1:
                what = f"a tensor of shape {tuple(total.shape)}" if isinstance(total, torch.Tensor) else type(total).__name__
                raise TypeError(f"the loss gave {what}\n  fix: give its sum over the rows, a tensor with one number")
            if wants_gradient:
                if not total.requires_grad:
                    raise TypeError("the loss does not depend on the logits by torch's operations"
                                    "\n  fix: compute it from `logits` without .detach(), .item() or NumPy")
                total.backward()
        with torch.no_grad():
            if wants_gradient:
                logits.copy_(leaf.grad)
            return float(total)
    return called
