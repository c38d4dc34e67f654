"""Heavier hydrogens: mass moved from heavy neighbours, so that stiff motions become slower.

Masses do not enter the distribution of positions, exp(-U/kT), so averages over shapes stay what
they are while longer steps become stable; the course of events in time is another one. The total
mass is kept (Feenstra, Hess and Berendsen, J. Comput. Chem. 20, 786 (1999); Hopkins, Le Grand,
Walker and Roitberg, J. Chem. Theory Comput. 11, 1864 (2015), doi:10.1021/ct5010406).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from egno_md.state import Molecule


def bonds_to_hydrogen(molecule: Molecule) -> Tensor:
    """Say which bonds have a hydrogen at one end or both.

    Args:
        molecule: gives elements and bonds.

    Returns:
        `(n_bonds,)` bool, in the order of `molecule.bonds`.
    """
    return (molecule.numbers[molecule.bonds] == 1).any(-1)


def heavy_hydrogens(molecule: Molecule, hydrogen_mass_amu: float = 3.0) -> Molecule:
    """Give every bonded hydrogen a mass, taken from the heavy atom that it is bonded to.

    Args:
        molecule: with bonds; its hydrogens have the mass of hydrogen.
        hydrogen_mass_amu: their new mass; 3 to 4 amu are usual.

    Returns:
        The same molecule with other masses, of the same total.

    Raises:
        ValueError: if the mass is not positive and finite, or a heavy atom would be left lighter
            than its hydrogens.
    """
    if not 0.0 < hydrogen_mass_amu < float("inf"):
        raise ValueError(f"hydrogen_mass_amu is {hydrogen_mass_amu}; it must be positive")
    hydrogen = molecule.numbers == 1
    masses = molecule.masses.clone()
    for i, j in molecule.bonds[bonds_to_hydrogen(molecule)].tolist():
        if hydrogen[i] and hydrogen[j]:
            continue  # nothing to take from
        light, heavy = (i, j) if hydrogen[i] else (j, i)
        masses[heavy] -= hydrogen_mass_amu - molecule.masses[light]
        masses[light] = hydrogen_mass_amu
    moved = masses != molecule.masses
    thin = (moved & ~hydrogen & (masses < hydrogen_mass_amu)).nonzero()
    if len(thin):
        k = int(thin[0])
        raise ValueError(
            f"hydrogen_mass_amu = {hydrogen_mass_amu:g} leaves atom {k} (atomic number "
            f"{int(molecule.numbers[k])}, {float(molecule.masses[k]):.3f} amu) only "
            f"{float(masses[k]):.3f} amu, lighter than its hydrogens; take less"
        )
    return replace(molecule, masses=masses)
