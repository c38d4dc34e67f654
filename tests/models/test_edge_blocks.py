"""Edges in blocks: the same numbers, whatever the blocks, kept or made again."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from egno_md.models.edge_blocks import EdgeBlock, SharedRows, cut_edges
from egno_md.models.escn_md import ESCNMD
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.state import Molecule, State

MODES = ["all", "geometry", "nothing"]


def test_blocks_hold_whole_atoms():
    target = torch.tensor([0, 0, 0, 2, 2, 3, 3, 3, 3])
    cuts = cut_edges(target, 5, 4)
    assert cuts == [
        EdgeBlock((0, 2), (0, 3)),
        EdgeBlock((2, 3), (3, 5)),
        EdgeBlock((3, 5), (5, 9)),
    ]
    assert sum(cut.n_atoms for cut in cuts) == 5
    # An atom with more neighbours than fit gets a block of its own.
    assert [cut.edges for cut in cut_edges(target, 5, 2)] == [(0, 3), (3, 5), (5, 9), (9, 9)]
    assert cut_edges(target, 5, 9) == [EdgeBlock((0, 5), (0, 9))]
    assert cut_edges(target[:0], 3, 2) == [EdgeBlock((0, 3), (0, 0))]


def test_unsorted_edges_are_refused():
    with pytest.raises(ValueError, match="sorted"):
        cut_edges(torch.tensor([1, 0, 1]), 2, 2)


@pytest.fixture(scope="module")
def crowd():
    """A network, and 24 atoms with about 300 edges."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ESCNMD([1, 8], channels=8, hidden_channels=8, n_layers=2, cutoff_A=4.0)
    generator = torch.Generator().manual_seed(1)
    grid = 1.6 * torch.cartesian_prod(*3 * [torch.arange(3.0)])[:24].double()
    x = grid + 0.2 * torch.randn(2, 24, 3, generator=generator, dtype=torch.float64)
    return model, State.at_rest(Molecule.from_numbers([8, 1, 1] * 8), x)


@pytest.mark.parametrize("keep", MODES)
@pytest.mark.parametrize("at_once", [10**9, 64, 1])
def test_neither_blocks_nor_memory_change_the_numbers(crowd, at_once, keep, monkeypatch):
    model, state = crowd
    whole = ESCNPotential(model, dtype=torch.float64).evaluate(state, virial=True)
    potential = ESCNPotential(model, dtype=torch.float64)
    potential.model.edges_at_once = at_once
    monkeypatch.setattr(potential.model, "_keep", lambda n_edges: keep)
    found = potential.evaluate(state, virial=True)
    assert torch.allclose(found.energy, whole.energy, rtol=0, atol=1e-12)
    assert torch.allclose(found.forces, whole.forces, rtol=0, atol=1e-12)
    assert torch.allclose(found.virial, whole.virial, rtol=0, atol=1e-12)


def test_memory_is_saved(crowd, monkeypatch):
    model, state = crowd
    kept = []
    for keep in MODES:
        potential = ESCNPotential(model)
        potential.model.edges_at_once = 32
        monkeypatch.setattr(potential.model, "_keep", lambda n_edges, keep=keep: keep)
        total = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            potential.evaluate(state)
        kept.append(total)
    # Geometries that are kept are results, which this does not count.
    assert max(kept[1:]) < 0.3 * kept[0]


def test_what_is_kept_depends_on_what_there_is_room_for(crowd):
    model = ESCNMD.from_architecture(crowd[0].architecture())
    model.kept_bytes = 1e6
    edges = [model._keep(n) for n in range(1, 2000)]
    assert set(edges) == {"all", "geometry", "nothing"}
    assert edges == sorted(edges)
    model.kept_bytes = float("inf")
    assert model._keep(10**12) == "all"


@pytest.mark.parametrize("n_blocks", [1, 3])
def test_rows_that_several_ask_for_have_the_gradient_of_them_all(n_blocks):
    values = torch.arange(12.0, dtype=torch.float64).view(4, 3).requires_grad_()
    indices = [torch.tensor(k) for k in ([0, 2, 2], [3, 0], [2])]

    def use(rows):
        return sum(((k + 1.0) * rows(index) ** 2).sum() for k, index in enumerate(indices))

    doubled = 2.0 * values
    (expected,) = torch.autograd.grad(use(lambda index: doubled[index]), values)
    for _ in range(2):
        shared = SharedRows(2.0 * values, n_blocks)
        (found,) = torch.autograd.grad(use(shared.rows), values)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0.0)
    assert shared.sums is None
    assert float(expected[1].abs().max()) == 0.0


def test_rows_that_nobody_asks_for_have_no_gradient():
    values = torch.ones(2, 3, requires_grad=True)
    shared = SharedRows(values, 2)
    loss = values.sum() + 0.0 * shared.values.detach().sum()
    (found,) = torch.autograd.grad(loss, values)
    assert torch.equal(found, torch.ones(2, 3))


class Counting(TorchDispatchMode):
    """Counts the numbers in what operations return."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            self.numbers += tensor.numel() if isinstance(tensor, torch.Tensor) else 0
        return found


@pytest.mark.parametrize("keep", MODES)
def test_what_a_block_costs_does_not_grow_with_the_system(crowd, keep, monkeypatch):
    model, state = crowd
    potential = ESCNPotential(model, atoms_at_once=10**9)
    potential.model.edges_at_once = 64
    monkeypatch.setattr(potential.model, "_keep", lambda n_edges: keep)
    taken = []
    for n in (3, 12):
        spread = 30.0 * torch.arange(n, dtype=torch.float64)[:, None, None]
        x = (state.positions[:1] + spread).reshape(1, -1, 3)
        many = State.at_rest(Molecule.from_numbers(state.molecule.numbers.repeat(n)), x)
        with Counting() as counted:
            potential.evaluate(many)
        taken.append(counted.numbers / n)
    assert taken[1] < 1.05 * taken[0]
