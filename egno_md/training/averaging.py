"""The running average of a model's weights, which is what gets validated and kept."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    r"""Exponential moving average of weights.

    .. math::
        \bar w \leftarrow d_k \bar w + (1 - d_k) w, \qquad
        d_k = \min(d, (1 + k) / (10 + k))

    The decay grows with the number of updates :math:`k`, so that the first weights, which are
    noise, are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start the average at the model's present weights.

        Args:
            model: the model to follow.
            decay: largest decay d, 0 to 1; 0 follows exactly.
        """
        self.decay = decay
        self.n_updates = 0
        self.model = copy.deepcopy(model).eval()
        for weight in self.model.parameters():
            weight.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's weights; buffers are copied.

        Args:
            model: the model that was followed from the start.
        """
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        self.n_updates += 1
        averages: list[Tensor] = [p for p in self.model.parameters() if p.is_floating_point()]
        weights = [p.detach() for p in model.parameters() if p.is_floating_point()]
        torch._foreach_lerp_(averages, weights, 1.0 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
