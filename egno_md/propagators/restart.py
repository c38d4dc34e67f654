"""Restarting: a generator's state, and names that let one flat record hold nested parts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Drawing:
    """A source of randomness that can be restarted."""

    generator: torch.Generator

    def restart_state(self) -> dict[str, Tensor]:
        """The state of the generator."""
        return {"generator": self.generator.get_state()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave.

        Raises:
            ValueError: if the generator's state is missing.
        """
        if "generator" not in saved:
            raise ValueError("the restart record has no generator state for the thermostat")
        self.generator.set_state(saved["generator"].to("cpu", torch.uint8))


def named_under(part: str, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put `part.` before every name.

    Args:
        part: name of the part that the tensors belong to.
        saved: what the part's `restart_state` gave.
    """
    return {f"{part}.{name}": tensor for name, tensor in saved.items()}


def taken_from(part: str, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pick what `named_under` named, under the old names.

    Args:
        part: name of the part.
        saved: tensors of several parts.
    """
    start = f"{part}."
    return {
        name.removeprefix(start): tensor for name, tensor in saved.items() if name.startswith(start)
    }
