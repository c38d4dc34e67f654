"""Turns parts of a molecule about its single bonds, so that dynamics begins in many conformers.

Barriers keep hot dynamics of a few picoseconds in the conformers it came from, and a copy of a
potential that never saw one believes that its energy is too high to go there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from egno_md.bonds import bond_graph_distance
from egno_md.models.molecule_parts import neighbours_of, within
from egno_md.state import Molecule, State

#: Atoms three bonds apart and more stay this far apart, in sums of covalent radii.
CLOSEST: Final = 1.5

#: Tries to turn a replica without a clash.
_TRIES: Final = 50


def turning_parts(n_atoms: int, bonds: Sequence[Sequence[int]]) -> list[tuple[int, int, list[int]]]:
    """Find the bonds that something can be turned about, and what turns.

    Args:
        n_atoms: number of atoms.
        bonds: pairs of atoms.

    Returns:
        For each bond that is in no ring and has other atoms at both ends: the end that stays, the
        end that turns, and the atoms beyond it, those of the smaller side.
    """
    near = neighbours_of(n_atoms, bonds)
    found = []
    for i, j in bonds:
        sides = [_beyond(near, i, j), _beyond(near, j, i)]
        if any(len(side) == 0 for side in sides) or i in sides[0]:
            continue
        (still, turning), side = min(
            (((i, j), sides[0]), ((j, i), sides[1])), key=lambda end: len(end[1])
        )
        found.append((still, turning, sorted(side)))
    return found


def _beyond(near: Sequence[set[int]], still: int, turning: int) -> set[int]:
    """Atoms reached from one end of a bond without crossing it; in a ring the other end, too."""
    cut = [set(others) for others in near]
    cut[turning].discard(still)
    return within(cut, turning, len(near)) - {turning}


def random_rotamers(start: State, n: int, generator: torch.Generator) -> State:
    """Copy a molecule and turn what can be turned; every second copy stays as it is.

    Each bond is left alone or turned by a random angle, with even odds. A copy that finds no place
    without a clash stays as it is, too.

    Args:
        start: one replica, with bonds, without a cell.
        n: copies.
        generator: source of randomness.

    Returns:
        `n` replicas at rest.
    """
    molecule = start.molecule
    x = start.positions[:1].expand(n, -1, -1).clone()
    parts = turning_parts(molecule.n_atoms, molecule.bonds.tolist())
    if parts:
        closest = _closest(molecule)
        for r in range(1, n, 2):
            for _ in range(_TRIES):
                turned = _turned(start.positions[0], parts, generator)
                if bool((torch.cdist(turned, turned).cpu() >= closest).all()):
                    x[r] = turned
                    break
    return State.at_rest(molecule, x)


def _turned(
    x: Tensor, parts: Sequence[tuple[int, int, list[int]]], generator: torch.Generator
) -> Tensor:
    """One copy with some of its bonds turned, `(n_atoms, 3)` Å."""
    x = x.clone()
    for still, turning, side in parts:
        chance, angle = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        if chance < 0.5:
            continue
        axis = x[turning] - x[still]
        axis = axis / axis.norm()
        arm = x[side] - x[turning]
        phi = 2.0 * math.pi * angle
        # Rodrigues' formula.
        along = (arm @ axis)[:, None] * axis
        across = torch.linalg.cross(axis.expand_as(arm), arm)
        x[side] = x[turning] + along + (arm - along) * math.cos(phi) + across * math.sin(phi)
    return x


def _closest(molecule: Molecule) -> Tensor:
    """How close two atoms may come, `(n_atoms, n_atoms)` Å; 0 where bonds keep them close."""
    from ase.data import covalent_radii

    radii = torch.tensor(covalent_radii, dtype=torch.float64)[molecule.numbers.cpu()]
    far = bond_graph_distance(molecule.n_atoms, molecule.bonds, 3).cpu() >= 3
    return CLOSEST * far * (radii[:, None] + radii)
