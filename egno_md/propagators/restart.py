"""Names for the tensors of nested parts, so that one flat record restarts them all."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


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
