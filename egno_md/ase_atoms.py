"""ASE's atoms as a `Molecule` and a `State`, and what is refused on the way.

ASE's units of length, energy and mass are ours; its unit of time is Å sqrt(amu/eV), 10.18 fs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from egno_md.state import Molecule, State
from egno_md.units import FS_PER_ASE_TIME

if TYPE_CHECKING:
    import ase

#: Atoms closer than this overlap: the shortest bond there is, H-H, has 0.74 Å.
SMALLEST_DISTANCE_A: Final = 0.3


def molecule_from_atoms(atoms: ase.Atoms) -> Molecule:
    """Return the part that does not move, without bonds and names.

    Args:
        atoms: elements, masses and periodicity are read.

    Raises:
        ValueError: naming the atom with an unknown element or without mass, or for no atoms.
    """
    numbers = np.asarray(atoms.numbers)
    if not len(numbers):
        raise ValueError("it holds no atoms")
    unknown = np.flatnonzero((numbers < 1) | (numbers > 118))
    if len(unknown):
        i = int(unknown[0])
        raise ValueError(f"atom {i} has the unknown element {str(atoms.symbols[i])!r}")
    masses = np.asarray(atoms.get_masses(), dtype=np.float64)
    weightless = np.flatnonzero(~(masses > 0))
    if len(weightless):
        i = int(weightless[0])
        raise ValueError(f"atom {i} has mass {masses[i]} amu; it must be positive")
    return Molecule(
        torch.from_numpy(numbers.astype(np.int64)),
        torch.from_numpy(masses.copy()),
        pbc=(bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2])),
    )


def state_from_atoms(
    atoms: ase.Atoms, molecule: Molecule | None = None, *, at_rest: bool = False
) -> State:
    """Return one replica at time 0, float64, positions as they are.

    Args:
        atoms: positions, momenta and cell are read.
        molecule: its molecule, where that is known; read from the atoms when None.
        at_rest: leave the momenta out.

    Raises:
        ValueError: naming what is not finite, unknown or without volume.
    """
    fixed = molecule_from_atoms(atoms) if molecule is None else molecule
    velocities = np.zeros((len(atoms), 3))
    if "momenta" in atoms.arrays and not at_rest:
        masses = fixed.masses.numpy()[:, None]
        velocities = atoms.arrays["momenta"] / masses / FS_PER_ASE_TIME
    cell = None
    if any(fixed.pbc):
        cell = torch.from_numpy(completed_cell(np.asarray(atoms.cell.array), fixed.pbc))[None]
    x = torch.from_numpy(np.array(atoms.positions, dtype=np.float64))
    return State(fixed, x[None], torch.from_numpy(velocities)[None], 0.0, cell)


def refuse_charge_and_spin(atoms: ase.Atoms) -> None:
    """Refuse a system that is not neutral with all electrons paired: no bundle knows another.

    Looked at are the names that other packages use in the comment line of extended xyz files,
    and ASE's initial charges and magnetic moments.

    Args:
        atoms: any.

    Raises:
        ValueError: with the charge or the spin.
    """
    total = 0.0
    if "initial_charges" in atoms.arrays:
        total = float(np.sum(atoms.arrays["initial_charges"]))
    for name in ("charge", "total_charge"):
        total = float(atoms.info.get(name) or total)
    if abs(total) > 1e-3:
        raise ValueError(
            f"it has a total charge of {total:g}; models here are trained for neutral systems, "
            "so make it neutral, or take the charge out if it is a mistake"
        )
    unpaired = 0.0
    if "initial_magmoms" in atoms.arrays:
        unpaired = float(np.abs(atoms.arrays["initial_magmoms"]).max())
    multiplicity = 1.0
    for name in ("spin", "multiplicity", "spin_multiplicity"):
        multiplicity = max(multiplicity, float(atoms.info.get(name) or 1.0))
    if unpaired > 1e-3 or multiplicity > 1.0:
        what = f"magnetic moments up to {unpaired:g}" if unpaired > 1e-3 else "a spin multiplicity"
        what += "" if unpaired > 1e-3 else f" of {multiplicity:g}"
        raise ValueError(
            f"it has {what}; models here are trained for paired electrons, so take the spin out "
            "if that is what you mean"
        )


def completed_cell(cell: np.ndarray, pbc: tuple[bool, bool, bool]) -> np.ndarray:
    """Check periodic cell vectors; fill in missing ones of directions that are not periodic.

    Args:
        cell: `(3, 3)`, Å, rows are cell vectors.
        pbc: periodic directions.

    Raises:
        ValueError: if a number is not finite, or the periodic vectors span no volume.
    """
    from ase.geometry.cell import complete_cell

    if not np.isfinite(cell).all():
        raise ValueError(f"its cell has a number that is not finite: {cell.tolist()}")
    lengths = np.linalg.norm(cell, axis=1)
    for axis, name in enumerate("abc"):
        if pbc[axis] and lengths[axis] < 1e-6:
            raise ValueError(
                f"it is periodic along {name} (pbc {pbc}) but cell vector {name} is zero; give a "
                "cell or set pbc to False"
            )
        if pbc[axis] and lengths[axis] < SMALLEST_DISTANCE_A:
            raise ValueError(
                f"its cell vector {name} is {lengths[axis]:.3g} Å long, so every atom overlaps "
                "its own image; check the unit (Å)"
            )
    whole = np.array(complete_cell(cell), dtype=np.float64)  # type: ignore[no-untyped-call]
    if abs(np.linalg.det(whole)) < 1e-6 * np.prod(np.linalg.norm(whole, axis=1)):
        raise ValueError(f"its cell vectors span no volume: {cell.tolist()}")
    return whole
