"""Edges in blocks: the same numbers, whatever the blocks, kept or made again."""

import pytest
import torch

from egno_md.models.edge_blocks import EdgeBlock, cut_edges
from egno_md.models.escn_md import ESCNMD
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.state import Molecule, State


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


@pytest.mark.parametrize("kept_bytes", [10**12, 0])
@pytest.mark.parametrize("at_once", [10**9, 64, 1])
def test_neither_blocks_nor_memory_change_the_numbers(crowd, at_once, kept_bytes):
    model, state = crowd
    whole = ESCNPotential(model, dtype=torch.float64).evaluate(state, virial=True)
    potential = ESCNPotential(model, dtype=torch.float64)
    potential.model.edges_at_once, potential.model.kept_bytes = at_once, kept_bytes
    found = potential.evaluate(state, virial=True)
    assert torch.allclose(found.energy, whole.energy, rtol=0, atol=1e-12)
    assert torch.allclose(found.forces, whole.forces, rtol=0, atol=1e-12)
    assert torch.allclose(found.virial, whole.virial, rtol=0, atol=1e-12)


def test_memory_is_saved(crowd):
    model, state = crowd
    kept = []
    for kept_bytes in (10**12, 0):
        potential = ESCNPotential(model)
        potential.model.edges_at_once, potential.model.kept_bytes = 32, kept_bytes
        total = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            potential.evaluate(state)
        kept.append(total)
    assert kept[1] < 0.3 * kept[0]
