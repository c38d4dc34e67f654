"""How many ways a molecule can move, and velocities without overall motion.

Temperature is 2 K / (f k_B), so a wrong f is a wrong temperature: 3 atoms counted with
f = 3 n - 6 instead of 3 n would read three times too hot. What matters is which motions the
dynamics leaves out. Langevin noise acts on every atom, so nothing is left out. Newtonian
dynamics keeps the total momentum it starts with, and the angular momentum of a molecule in
vacuum: when those start at zero they hold no kinetic energy, ever.
"""

from __future__ import annotations

import torch
from torch import Tensor

from egno_md.state import Molecule


def degrees_of_freedom(
    molecule: Molecule,
    *,
    zero_momentum: bool = False,
    zero_angular_momentum: bool = False,
    linear: bool = False,
) -> int:
    """Count the degrees of freedom that share the kinetic energy.

    Args:
        molecule: gives the number of atoms and the periodicity.
        zero_momentum: the total momentum is zero and stays zero (Newtonian dynamics only).
        zero_angular_momentum: the angular momentum is, too.
        linear: all atoms lie on one line, now and always; two atoms always do.

    Returns:
        3 n under Langevin dynamics; 3 n - 3 with zero momentum; 3 n - 6 with zero angular
        momentum on top, 3 n - 5 for a linear molecule.

    Raises:
        ValueError: if angular momentum is said to stay zero where nothing conserves it.
    """
    n = molecule.n_atoms
    if zero_angular_momentum and any(molecule.pbc):
        raise ValueError(
            f"angular momentum is not conserved in a periodic cell (pbc {molecule.pbc}): "
            "leave zero_angular_momentum False"
        )
    rotations = 0 if n == 1 else 2 if linear or n == 2 else 3
    return 3 * n - 3 * zero_momentum - rotations * zero_angular_momentum


def without_drift(molecule: Molecule, velocities: Tensor) -> Tensor:
    """Remove the motion of the centre of mass.

    Args:
        molecule: gives the masses.
        velocities: `(..., n_atoms, 3)`, Å/fs.

    Returns:
        Velocities of zero total momentum, same shape and dtype.
    """
    masses = molecule.masses.to(velocities)[:, None]
    return velocities - (masses * velocities).sum(-2, keepdim=True) / masses.sum()


def without_rotation(molecule: Molecule, positions: Tensor, velocities: Tensor) -> Tensor:
    """Remove the rotation about the centre of mass; the centre's own motion stays.

    Args:
        molecule: gives the masses; not periodic.
        positions: `(..., n_atoms, 3)`, Å.
        velocities: same shape, Å/fs.

    Returns:
        Velocities of zero angular momentum about the centre of mass, same shape and dtype.

    Raises:
        ValueError: if the molecule is periodic.
    """
    if any(molecule.pbc):
        raise ValueError(f"a periodic system (pbc {molecule.pbc}) has no angular momentum")
    masses = molecule.masses.to(velocities)[:, None]
    arms = positions - (masses * positions).sum(-2, keepdim=True) / masses.sum()
    momentum = torch.linalg.cross(arms, masses * velocities).sum(-2)
    squares = (masses * arms.square()).sum((-2, -1))
    products = torch.einsum("...ia,...ib->...ab", masses * arms, arms)
    inertia = squares[..., None, None] * torch.eye(3).to(products) - products
    # A linear molecule has no inertia about its axis: the pseudo-inverse turns it not at all.
    inverse: Tensor = torch.linalg.pinv(inertia, rtol=1e-9)
    spin = torch.einsum("...ab,...b->...a", inverse, momentum)
    turning: Tensor = torch.linalg.cross(spin[..., None, :].expand_as(arms), arms)
    return velocities - turning
