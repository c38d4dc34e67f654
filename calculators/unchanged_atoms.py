"""Whether atoms are bit for bit what a calculator saw last: ASE's own look takes far longer."""

from __future__ import annotations

from typing import Any

from ase import Atoms

#: Arrays that ASE compares where there are any; with these it is left to ASE.
_RARE = ("initial_charges", "initial_magmoms")


def surely_unchanged(seen: Atoms | None, atoms: Atoms) -> bool:
    """Whether positions, elements, cell and periodicity have the same bits.

    Args:
        seen: a copy made before; None: there is none.
        atoms: now.

    Returns:
        False also where it cannot tell so easily: then compare as ASE does.
    """
    if seen is None or any(name in a.arrays for a in (seen, atoms) for name in _RARE):
        return False
    return bits_of(seen) == bits_of(atoms)


def bits_of(atoms: Atoms) -> tuple[bytes, ...]:
    """Return positions, elements, cell and periodicity as bytes.

    Args:
        atoms: any.
    """
    arrays: dict[str, Any] = atoms.arrays
    kept = (arrays["positions"], arrays["numbers"], atoms.cell.array, atoms.pbc)
    return tuple(array.tobytes() for array in kept)
