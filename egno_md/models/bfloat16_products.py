"""Matrix products in bfloat16: a network's linear maps round their inputs to 8 significant bits.

Weights, sums over neighbours, positions and the convolution over time stay in the precision they
have. `egno-md benchmark step` says what it saves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Bfloat16Products(nn.Module):
    """Runs a module with its linear maps in bfloat16, its gradients too."""

    def __init__(self, module: nn.Module) -> None:
        """Wrap a module.

        Args:
            module: with weights in float32, on one device.
        """
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any) -> Any:  # noqa: ANN401
        """Call the module.

        Args:
            inputs: handed on.
        """
        device = next(self.module.parameters()).device
        with torch.autocast(device.type, torch.bfloat16):
            return self.module(*inputs)
