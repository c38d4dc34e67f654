from __future__ import annotations

import pytest
import torch
from torch import Tensor

from egno_md.bonds import bond_graph_distance
from egno_md.models.compiled_gradient import CompiledGradient
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import PairGraph, pair_graph
from egno_md.models.periodic_pairs import (
    PAIRS_AT_ONCE,
    near_pairs,
    near_statistics,
    periodic_graph,
)
from egno_md.state import Molecule

WATER = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]).double()
CUTOFF_A = 3.0


def box_of_water(
    n: int = 2, side_A: float = 3.4, pbc: tuple[bool, bool, bool] = (True, True, True)
) -> tuple[Molecule, Tensor, Tensor]:
    """`n**3` waters, each turned and shaken its own way, in a box that is not at right angles."""
    g = torch.Generator().manual_seed(4)
    grid = torch.cartesian_prod(*[torch.arange(n).double()] * 3) if n > 1 else torch.zeros(1, 3)
    turns = torch.linalg.qr(torch.randn(n**3, 3, 3, generator=g).double()).Q
    cell = n * side_A * torch.tensor([[1.0, 0, 0], [0.15, 1, 0], [-0.1, 0.2, 1]]).double()
    x = (grid.double() / n) @ cell
    x = x[:, None] + WATER @ turns
    x = x + 0.03 * torch.randn(x.shape, generator=g, dtype=torch.float64)
    bonds = [(3 * k, 3 * k + h) for k in range(n**3) for h in (1, 2)]
    molecule = Molecule.from_numbers([8, 1, 1] * n**3, bonds=bonds, pbc=pbc)
    return molecule, x.reshape(1, -1, 3), cell[None]


def network(cutoff_A: float = CUTOFF_A) -> HamiltonianEGNO:
    classes = [(1, 1, 2), (1, 1, 4), (1, 8, 1), (1, 8, 4), (8, 8, 4)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HamiltonianEGNO([1, 8], classes, n_hidden=8, n_vectors=3, cutoff_A=cutoff_A)
        with torch.no_grad():
            model.readout[2].weight.normal_(std=0.5)
            model.pair_terms[:, 1].normal_(0.02, 0.01)
    model.distance_mean.copy_(torch.tensor([1.5, 2.5, 0.96, 2.5, 2.8]))
    model.distance_spread.copy_(torch.tensor([0.1, 0.5, 0.05, 0.5, 0.4]))
    return model.double().eval().requires_grad_(False)


def flat(x: Tensor) -> Tensor:
    return x.reshape(1, -1, 3)


def push(model: HamiltonianEGNO, x: Tensor, graph: PairGraph) -> tuple[Tensor, Tensor]:
    """Potentials and forces."""
    return model.potentials(flat(x), graph), model.force(flat(x), graph, 1).reshape(x.shape)


def test_in_a_wide_cell_a_molecule_is_alone() -> None:
    model = network(8.0)
    molecule, x, _ = box_of_water(1)
    alone = pair_graph(
        molecule.numbers,
        molecule.masses,
        bond_graph_distance(3, molecule.bonds, 4),
        model.elements,
        model.classes,
    )
    graph = periodic_graph(model, molecule, x, 30.0 * torch.eye(3).double()[None], 0.5)
    for got, expected in zip(push(model, x, graph), push(model, x, alone), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


def test_wrapping_an_atom_changes_nothing() -> None:
    model = network()
    molecule, x, cell = box_of_water()
    y = x.clone()
    y[0, 4] += 2 * cell[0, 1] - cell[0, 2]
    y[0, 9] -= cell[0, 0]
    here, there = (push(model, p, periodic_graph(model, molecule, p, cell, 0.3)) for p in (x, y))
    assert here[1].abs().max().item() > 0.1
    torch.testing.assert_close(there[0], here[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(there[1], here[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2])
def test_potentials_are_extensive(n: int) -> None:
    # The smaller cell is thinner than the cutoff: atoms see their own images.
    model = network(3.6 if n == 1 else CUTOFF_A)
    molecule, x, cell = box_of_water(n)
    copies = torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(1)).double()
    large = (x[:, None] + (copies @ cell[0])[None, :, None]).reshape(1, -1, 3)
    n_atoms = molecule.n_atoms
    bonds = torch.cat([molecule.bonds + k * n_atoms for k in range(4)])
    many = Molecule.from_numbers(molecule.numbers.repeat(4), bonds=bonds, pbc=molecule.pbc)
    stretch = torch.tensor([2.0, 2.0, 1.0]).double()[:, None]
    one = push(model, x, periodic_graph(model, molecule, x, cell, 0.2))
    four = push(model, large, periodic_graph(model, many, large, stretch * cell, 0.2))
    torch.testing.assert_close(four[0], 4 * one[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(four[1], one[1].repeat(1, 4, 1), rtol=0, atol=1e-11)


def test_forces_are_the_slope_of_the_energy() -> None:
    model = network()
    molecule, x, cell = box_of_water()
    graph = periodic_graph(model, molecule, x, cell, 0.3)
    weights = model.stage_weights(1).double()
    force = model.force(x, graph, 1)[0]
    for atom, axis in ((0, 0), (7, 1), (23, 2)):
        ends = []
        for h in (1e-4, -1e-4):
            y = x.clone()
            y[0, atom, axis] += h
            ends.append(float((model.potentials(y, graph) * weights).sum()))
        slope = (ends[0] - ends[1]) / 2e-4
        assert float(force[atom, axis]) == pytest.approx(-slope, rel=1e-6, abs=1e-7)


def test_forces_come_in_smoothly_at_the_cutoff() -> None:
    model = network()
    molecule = Molecule.from_numbers([8, 8], pbc=(True, True, True))
    cell = 20.0 * torch.eye(3).double()[None]
    pushes = []
    for gap in (0.05, 0.02, 0.01, 0.0, -1e-9):
        x = torch.tensor([[[0, 0, 0], [CUTOFF_A - gap - 20.0, 0, 0]]], dtype=torch.float64)
        pushes.append(
            float(push(model, x, periodic_graph(model, molecule, x, cell, 0.5))[1][0, 0, 0])
        )
    assert pushes[4] == 0.0
    assert abs(pushes[3]) < 1e-15
    # The envelope's second derivative is zero there too: forces fall with the square of the gap.
    assert abs(pushes[2]) > 0
    assert pushes[1] / pushes[2] == pytest.approx(4.0, rel=0.2)
    assert pushes[0] / pushes[2] == pytest.approx(25.0, rel=0.4)


def test_skin_and_fillers_contribute_exactly_nothing() -> None:
    model = network()
    molecule, x, cell = box_of_water()
    thin = periodic_graph(model, molecule, x, cell, 0.0)
    full = periodic_graph(model, molecule, x, cell, 0.0, at_least=4 * PAIRS_AT_ONCE + 1)
    assert thin.pairs.shape[1] % PAIRS_AT_ONCE == 0
    assert full.pairs.shape[1] == 5 * PAIRS_AT_ONCE
    thick = periodic_graph(model, molecule, x, cell, 1.0)
    reference = push(model, x, thin)
    for graph in (full, thick):
        for got, expected in zip(push(model, x, graph), reference, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-14)
    assert torch.isfinite(push(model, x, full)[1]).all()


def test_replicas_in_one_graph_do_not_see_each_other() -> None:
    model = network()
    molecule, x, cell = box_of_water()
    g = torch.Generator().manual_seed(0)
    both = x + 0.05 * torch.randn((2, *x.shape[1:]), generator=g, dtype=torch.float64)
    cells = torch.cat([cell, 1.02 * cell])
    together = push(model, both, periodic_graph(model, molecule, both, cells, 0.3))
    alone = [
        push(model, both[[r]], periodic_graph(model, molecule, both[[r]], cells[[r]], 0.3))
        for r in range(2)
    ]
    torch.testing.assert_close(together[0], alone[0][0] + alone[1][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together[1], torch.cat([a[1] for a in alone]), rtol=0, atol=1e-12)


def test_vacuum_and_slabs() -> None:
    model = network()
    molecule, x, cell = box_of_water(pbc=(False, False, False))
    near = near_pairs(molecule, x, None, CUTOFF_A, 4)
    expected = int((torch.pdist(x[0]) < CUTOFF_A).sum())
    assert near.pairs.shape[1] == expected
    assert not near.shifts.any()
    everything = pair_graph(
        molecule.numbers,
        molecule.masses,
        bond_graph_distance(molecule.n_atoms, molecule.bonds, 4),
        model.elements,
        model.classes,
    )
    got = push(model, x, periodic_graph(model, molecule, x, None, 0.2))
    for value, wanted in zip(got, push(model, x, everything), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-13)
    slab = near_pairs(box_of_water(pbc=(True, True, False))[0], x, cell, CUTOFF_A, 4)
    crossed = (slab.shifts @ torch.linalg.inv(cell[0])).round()
    assert crossed[:, :2].abs().max() == 1
    assert not crossed[:, 2].any()


def test_compiled_forces_are_the_same() -> None:
    model = network()
    molecule, x, cell = box_of_water()
    graph = periodic_graph(model, molecule, x, cell, 0.3)
    plain = push(model, x, graph)[1]
    model.compiled = CompiledGradient(strict=True, backend="aot_eager")
    torch.testing.assert_close(push(model, x, graph)[1], plain, rtol=1e-12, atol=1e-13)


def test_bonds_are_counted_within_molecules_only() -> None:
    molecule, x, cell = box_of_water()
    near = near_pairs(molecule, x, cell, CUTOFF_A, 4)
    i, j = near.pairs
    same = (i // 3 == j // 3) & ((near.shifts == 0).all(1))
    assert set(near.bonds[same].tolist()) == {1, 2}
    assert set(near.bonds[~same].tolist()) == {4}
    distance = (x[0, j] + near.shifts - x[0, i]).norm(dim=-1)
    assert (near.bonds == 1).sum() == 16
    assert (distance[near.bonds == 1] < 1.2).all()


def test_statistics_are_of_pairs_within_the_cutoff() -> None:
    molecule, x, cell = box_of_water()
    classes, mean, spread = near_statistics(molecule, x, cell, CUTOFF_A, 4)
    # No two oxygens are that close.
    assert classes == [(1, 1, 2), (1, 1, 4), (1, 8, 1), (1, 8, 4)]
    assert float(mean[2]) == pytest.approx(0.96, abs=0.03)
    assert mean.max() < CUTOFF_A
    assert spread.min() > 0
    with pytest.raises(ValueError, match="no two atoms"):
        near_statistics(molecule, x, cell, 0.1, 4)


def test_what_the_network_does_not_know_is_named() -> None:
    model = network()
    molecule, x, cell = box_of_water()
    loose = Molecule.from_numbers(molecule.numbers, bonds=[(0, 1)], pbc=(True, True, True))
    ring = Molecule.from_numbers(
        molecule.numbers, bonds=[(0, 1), (0, 2), (1, 2)], pbc=(True, True, True)
    )
    periodic_graph(model, loose, x, cell, 0.0)
    with pytest.raises(ValueError, match=r"atoms 1 and 2 .*1 and 1, 1 bonds.* not trained for"):
        periodic_graph(model, ring, x, cell, 0.0)
    numbers = molecule.numbers.clone()
    numbers[5] = 7
    strange = Molecule.from_numbers(numbers, pbc=(True, True, True))
    with pytest.raises(ValueError, match="atom 5 has atomic number 7"):
        periodic_graph(model, strange, x, cell, 0.0)
    with pytest.raises(ValueError, match="skin_A is -1"):
        periodic_graph(model, molecule, x, cell, -1.0)
