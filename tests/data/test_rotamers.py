"""Parts of molecules are turned about their single bonds, and nothing else changes."""

from pathlib import Path

import pytest
import torch
from ase.data import covalent_radii

import egno_md
from egno_md.bonds import bond_graph_distance
from egno_md.data.rotamers import CLOSEST, random_rotamers, turning_parts
from egno_md.data.structures import read_structure
from egno_md.state import Molecule, State

EXAMPLES = Path(egno_md.__file__).parent / "examples"


def molecule(name):
    start = read_structure(EXAMPLES / f"{name}.xyz")
    return State.at_rest(start.molecule, start.positions.double())


def rotamers(name, n=40, seed=0):
    start = molecule(name)
    return start, random_rotamers(start, n, torch.Generator().manual_seed(seed))


def angles(x, four):
    a, b, c, d = (x[:, i] for i in four)
    first, middle, last = b - a, c - b, d - c
    one, two = torch.linalg.cross(first, middle), torch.linalg.cross(middle, last)
    y = (torch.linalg.cross(one, two) * middle).sum(1) / middle.norm(dim=1)
    return torch.rad2deg(torch.atan2(y, (one * two).sum(1)))


def test_rings_and_ends_do_not_turn():
    # A ring of three with an arm of two carbons and hydrogens at the end of it.
    bonds = [(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (4, 5), (4, 6)]
    assert turning_parts(7, bonds) == [(3, 2, [0, 1]), (3, 4, [5, 6])]
    assert turning_parts(3, [(0, 1), (0, 2)]) == []


def test_aspirin_turns_about_five_bonds():
    parts = turning_parts(21, molecule("aspirin").molecule.bonds.tolist())
    assert sorted(tuple(sorted(part[:2])) for part in parts) == [
        (4, 11),
        (5, 10),
        (6, 12),
        (9, 10),
        (11, 12),
    ]


@pytest.mark.parametrize("name", ["ethanol", "aspirin", "paracetamol"])
def test_lengths_angles_and_half_of_the_copies_stay(name):
    start, turned = rotamers(name)
    x, first = turned.positions, start.positions[0]
    assert torch.equal(x[::2], first.expand_as(x[::2]))
    assert not torch.equal(x[1::2], first.expand_as(x[1::2]))
    near = torch.cdist(first, first)
    close = bond_graph_distance(start.molecule.n_atoms, start.molecule.bonds, 3) < 3
    lengths = torch.cdist(x, x)
    torch.testing.assert_close(
        lengths[:, close], near[close].expand(len(x), -1), atol=1e-5, rtol=0.0
    )
    assert not bool(turned.velocities.any())


def test_the_acid_of_aspirin_is_turned_round_and_nothing_clashes():
    start, turned = rotamers("aspirin")
    acid = angles(turned.positions, (0, 5, 10, 7))
    assert float(acid.abs().min()) < 40.0
    assert float(acid.abs().max()) > 140.0
    far = bond_graph_distance(21, start.molecule.bonds, 3) >= 3
    radii = torch.tensor(covalent_radii)[start.molecule.numbers].double()
    share = torch.cdist(turned.positions, turned.positions) / (radii[:, None] + radii)
    moved = share[1::2][:, far].amin(1)
    kept = float(share[0][far].min())
    assert bool(((moved >= CLOSEST) | (moved == kept)).all())


def test_the_same_seed_gives_the_same_bits():
    one, two, other = (rotamers("aspirin", seed=seed)[1].positions for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_what_cannot_turn_is_copied():
    water = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)])
    x = torch.tensor([[[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]], dtype=torch.float64)
    turned = random_rotamers(State.at_rest(water, x), 4, torch.Generator().manual_seed(0))
    assert torch.equal(turned.positions, x.expand(4, -1, -1))
