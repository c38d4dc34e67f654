"""A bonded force field fitted to another potential: what is stiff in it, at next to no cost.

Energies of the usual form, their constants fitted to forces:

    V = sum_bonds k d^2 (1 - a d + 7/12 a^2 d^2) + sum_angles k (theta - theta_0)^2
        + sum_torsions sum_n k_n cos(n phi),    d = r - r_0,

the bond being Morse's to fourth order, with the same steepness a for all; lengths and angles at
rest are those of a minimum. Constants of bonds and angles are not negative, so that V is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import openmm
import torch
from torch import Tensor

from egno_md.bonds import guess_bonds
from egno_md.roles import Potential
from egno_md.state import State
from egno_md.units import KJ_PER_MOL, NM_PER_A

#: Steepness a of every bond, 1/Å; carbon, hydrogen and oxygen have 1.8 to 2.3.
STEEPNESS_PER_A: Final = 2.0

#: Multiplicities n of a torsion.
_FOLDS: Final = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Terms:
    """Which atoms a force field joins, and where bonds and angles rest.

    Attributes:
        bonds: `(n_bonds, 2)`.
        angles: `(n_angles, 3)`, the middle atom in the middle.
        torsions: `(n_torsions, 4)`, along the chain.
        lengths: `(n_bonds,)`, Å.
        openings: `(n_angles,)`, rad.
    """

    bonds: Tensor
    angles: Tensor
    torsions: Tensor
    lengths: Tensor
    openings: Tensor

    @property
    def n_positive(self) -> int:
        """Constants that are not negative: those of bonds and angles, which come first."""
        return len(self.bonds) + len(self.angles)

    def shapes(self, x: Tensor) -> Tensor:
        """Return the derivative of every replica's energy by every constant.

        Args:
            x: positions, `(n_replicas, n_atoms, 3)`, Å.

        Returns:
            `(n_replicas, n_constants)`: bonds, angles, then torsions fold by fold.
        """
        d = _lengths(x, self.bonds) - self.lengths
        steep = STEEPNESS_PER_A * d
        stretched = d.square() * (1.0 - steep + 7.0 / 12.0 * steep.square())
        bent = (_openings(x, self.angles) - self.openings).square()
        turned = _turns(x, self.torsions)
        waves = [torch.cos(fold * turned) for fold in _FOLDS]
        return torch.cat([stretched, bent, *waves], 1)


def terms_at(minimum: State) -> Terms:
    """Find bonds, angles and torsions of a molecule.

    Args:
        minimum: one replica, not periodic, at rest in a minimum.
    """
    x, molecule = minimum.positions, minimum.molecule
    bonds = molecule.bonds if len(molecule.bonds) else guess_bonds(molecule.numbers, x[0])
    near: list[list[int]] = [[] for _ in range(molecule.n_atoms)]
    for i, j in bonds.tolist():
        near[i].append(j)
        near[j].append(i)
    angles = [(i, j, k) for j, ends in enumerate(near) for i in ends for k in ends if i < k]
    torsions = [
        (i, j, k, m)
        for j, k in bonds.tolist()
        for i in near[j]
        for m in near[k]
        if i != k and m != j and i != m
    ]
    bent = torch.tensor(angles, dtype=torch.int64).reshape(-1, 3)
    turned = torch.tensor(torsions, dtype=torch.int64).reshape(-1, 4)
    return Terms(bonds, bent, turned, _lengths(x, bonds)[0], _openings(x, bent)[0])


def fitted(terms: Terms, potential: Potential, frames: State) -> Tensor:
    """Fit the constants to the potential's forces by least squares.

    Args:
        terms: of the molecule.
        potential: to be like.
        frames: where to compare, a replica each.

    Returns:
        The constants, `(n_constants,)`, eV per unit of the shape.
    """
    from scipy.optimize import lsq_linear  # type: ignore[import-untyped]

    wanted = potential.evaluate(frames).forces.double()
    x = frames.positions.double().clone().requires_grad_()
    shapes = terms.shapes(x).sum(0)
    columns = [-torch.autograd.grad(one, x, retain_graph=True)[0].flatten() for one in shapes]
    weights = frames.molecule.masses.rsqrt()[:, None].expand_as(wanted).flatten()
    matrix = (torch.stack(columns, 1) * weights[:, None]).detach().numpy()
    low = np.full(matrix.shape[1], -np.inf)
    low[: terms.n_positive] = 0.0
    found = lsq_linear(matrix, (wanted.flatten() * weights).numpy(), (low, np.inf))
    return torch.from_numpy(found.x)


def openmm_forces(terms: Terms, constants: Tensor, sign: float, group: int) -> list[openmm.Force]:
    """Return the force field as forces of OpenMM.

    Args:
        terms: of the molecule.
        constants: that `fitted` gave.
        sign: 1, or -1 to take the force field away.
        group: force group.
    """
    n_bonds, n_angles = len(terms.bonds), len(terms.angles)
    scaled = sign * constants / KJ_PER_MOL
    stretch, bend, *turn = torch.split(
        scaled, [n_bonds, n_angles] + [len(terms.torsions)] * len(_FOLDS)
    )
    steep = STEEPNESS_PER_A / NM_PER_A
    bonds = openmm.CustomBondForce(f"k*d^2*(1-{steep}*d+7/12*({steep}*d)^2); d=r-r0")
    angles = openmm.CustomAngleForce("k*(theta-theta0)^2")
    torsions = openmm.CustomTorsionForce("+".join(f"k{n}*cos({n}*theta)" for n in _FOLDS))
    _fill(
        bonds.addPerBondParameter,
        ("k", "r0"),
        bonds.addBond,
        terms.bonds,
        (stretch / NM_PER_A**2, terms.lengths * NM_PER_A),
    )
    _fill(
        angles.addPerAngleParameter,
        ("k", "theta0"),
        angles.addAngle,
        terms.angles,
        (bend, terms.openings),
    )
    _fill(
        torsions.addPerTorsionParameter,
        [f"k{n}" for n in _FOLDS],
        torsions.addTorsion,
        terms.torsions,
        turn,
    )
    made: list[openmm.Force] = [bonds, angles, torsions]
    for force in made:
        force.setForceGroup(group)
    return made


def _fill(
    name: Callable[[str], object],
    names: Sequence[str],
    add: Callable[..., object],
    atoms: Tensor,
    values: Sequence[Tensor],
) -> None:
    """Give a force its parameters and terms."""
    for one in names:
        name(one)
    for these, numbers in zip(atoms.tolist(), torch.stack(list(values), 1).tolist(), strict=True):
        add(*these, numbers)


def _lengths(x: Tensor, pairs: Tensor) -> Tensor:
    """Distances, `(n_replicas, n_pairs)`."""
    found: Tensor = (x[:, pairs[:, 0]] - x[:, pairs[:, 1]]).norm(dim=-1)
    return found


def _openings(x: Tensor, triples: Tensor) -> Tensor:
    """Angles, `(n_replicas, n_angles)`, rad."""
    a = x[:, triples[:, 0]] - x[:, triples[:, 1]]
    b = x[:, triples[:, 2]] - x[:, triples[:, 1]]
    return torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1))


def _turns(x: Tensor, chains: Tensor) -> Tensor:
    """Dihedral angles, `(n_replicas, n_torsions)`, rad."""
    a, b, c = (x[:, chains[:, k + 1]] - x[:, chains[:, k]] for k in range(3))
    first, second = torch.linalg.cross(a, b), torch.linalg.cross(b, c)
    along = (torch.linalg.cross(first, second) * b).sum(-1) / b.norm(dim=-1)
    return torch.atan2(along, (first * second).sum(-1))
