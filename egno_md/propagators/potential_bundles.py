"""From a bundle to the potential in it, whatever its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from egno_md.propagators.distance_potential import DistancePotential
from egno_md.propagators.escn_potential import ESCNPotential

if TYPE_CHECKING:
    from egno_md.bundle import Bundle

#: Kinds of bundles that hold a potential.
POTENTIAL_KINDS: Final = ("escn", "distance")


def potential_of(
    bundle: Bundle, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> ESCNPotential | DistancePotential:
    """Make the potential of a bundle.

    Args:
        bundle: of kind "escn" or "distance".
        device: where to compute.
        dtype: float32 or float64; the bundle's own when None.

    Raises:
        ValueError: if the bundle holds a network with direct forces, or no potential.
    """
    if bundle.card.kind == "distance":
        return DistancePotential(bundle, device=device, dtype=dtype)
    return ESCNPotential(bundle, device=device, dtype=dtype)
