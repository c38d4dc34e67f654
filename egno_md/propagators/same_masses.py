"""Whether what was made for a molecule suits the masses of another with the same atoms."""

from __future__ import annotations

from typing import Final

import torch

from egno_md.roles import Propagator
from egno_md.state import Molecule

#: Masses may differ by this share: tables of standard masses differ by some 1e-4, deuterium,
#: hydrogens with repartitioned masses and held atoms by 0.5 and more.
SAME_MASS = 0.01

#: What wrappers call the propagator within them.
_WITHIN: Final = ("proposal", "propagator", "fast")


def other_mass(known: Molecule, molecule: Molecule) -> tuple[int, float, float] | None:
    """Find the atom whose mass differs most.

    Args:
        known: what something was made for; as many atoms.
        molecule: what moves.

    Returns:
        The atom, its mass in `molecule` and in `known`, amu; None where all are the same.
    """
    off = (known.masses.cpu() / molecule.masses.cpu() - 1).abs()
    i = int(off.argmax())
    if not float(off[i]) > SAME_MASS:
        return None
    return i, float(molecule.masses[i]), float(known.masses[i])


def made_for(propagator: Propagator) -> Molecule | None:
    """Find the molecule that a propagator, or one within it, was made for.

    Args:
        propagator: any, also within baths, guards and accept/reject.

    Returns:
        The molecule; None where it says of none and takes the masses of what it moves.
    """
    known = getattr(propagator, "molecule", None)
    if isinstance(known, Molecule):
        return known
    for name in _WITHIN:
        within = getattr(propagator, name, None)
        if isinstance(within, Propagator):
            return made_for(within)
    return None


def wrong_mass(propagator: Propagator, molecule: Molecule) -> tuple[int, float, float] | None:
    """Find the atom that a propagator takes for a lighter or heavier one.

    Args:
        propagator: any, also within baths, guards and accept/reject.
        molecule: what would move.

    Returns:
        The atom, its mass in `molecule` and in the propagator, amu; None where all suit, or the
        propagator takes the masses of what it moves.

    Raises:
        ValueError: if it was made for other elements, or another order of them.
    """
    known = made_for(propagator)
    if known is None:
        return None
    if not torch.equal(known.numbers.cpu(), molecule.numbers):
        raise ValueError(
            f"the propagator was made for {known.n_atoms} atoms other than the "
            f"{molecule.n_atoms} here, or in another order"
        )
    return other_mass(known, molecule)
