"""Systems of the speed tables: ethanol, two small molecules side by side, boxes of water."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from egno_md.state import Molecule, State

#: Molecules of the smallest box along each axis, and its edge, Å.
_PER_AXIS: Final = 4
_EDGE_A: Final = 12.42

#: How far the second molecule is moved along every axis, Å.
_APART_A: Final = 3.0


def one_molecule() -> State:
    """Ethanol, 9 atoms, one replica, open."""
    from ase.build import molecule

    ethanol = molecule("CH3CH2OH")  # type: ignore[no-untyped-call]
    return State.at_rest(
        Molecule.from_numbers(ethanol.numbers.tolist()), torch.from_numpy(ethanol.positions)
    )


def two_molecules() -> State:
    """Butane and ethanol, 23 atoms, one replica, open."""
    from ase.build import molecule

    first = molecule("trans-butane")  # type: ignore[no-untyped-call]
    second = molecule("CH3CH2OH")  # type: ignore[no-untyped-call]
    numbers = np.concatenate((first.numbers, second.numbers))
    positions = np.concatenate((first.positions, second.positions + _APART_A))
    return State.at_rest(
        Molecule.from_numbers(numbers.tolist()), torch.from_numpy(np.array(positions))
    )


def water_box(repeats: int = 1, seed: int = 0) -> State:
    """Water molecules on a cubic lattice, each turned at random: 192 atoms for each repeat.

    Args:
        repeats: copies of the 64 molecules, along one axis after the other.
        seed: of the rotations.
    """
    from ase.build import molecule
    from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

    draw = np.random.default_rng(seed)
    one = molecule("H2O")  # type: ignore[no-untyped-call]
    arms = one.positions - one.positions[0]
    copies = [1, 1, 1]
    while np.prod(copies) < repeats:
        copies[int(np.argmin(copies))] += 1
    counts = [_PER_AXIS * n for n in copies]
    corners = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), -1).reshape(-1, 3)
    turns = Rotation.random(len(corners), random_state=draw).as_matrix()
    places = corners[:, None] * (_EDGE_A / _PER_AXIS) + np.einsum("nij,aj->nai", turns, arms)
    cell = torch.diag(torch.tensor(copies, dtype=torch.float64) * _EDGE_A)
    numbers = torch.from_numpy(one.numbers.astype(np.int64)).repeat(len(corners))
    water = Molecule.from_numbers(numbers, pbc=(True, True, True))
    return State.at_rest(water, torch.from_numpy(places.reshape(-1, 3)), cell=cell)
