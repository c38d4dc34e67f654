"""Compiled energies: the network's numbers, whatever the number of edges, and honest refusals."""

from __future__ import annotations

import logging

import pytest
import torch

from egno_md.models import compiled_energies
from egno_md.models.compiled_energies import CompiledEnergies, room_for
from egno_md.models.escn_md import ESCNMD
from egno_md.models.frozen_graph import Compiling
from egno_md.models.neighbours import find_neighbours

TRACED = Compiling(strict=True, backend="eager")
CUTOFF_A = 3.0


@pytest.fixture
def model():
    torch.manual_seed(0)
    settings = {"max_degree": 1, "max_order": 1, "channels": 4, "hidden_channels": 4, "n_layers": 1}
    return ESCNMD([1, 8], cutoff_A=CUTOFF_A, repulsion=True, **settings).double().eval()


def graph(n_atoms, seed=0, stretch=1.0):
    """Atoms in a line that wobbles."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(n_atoms, 3, dtype=torch.float64)
    x[:, 0] = 1.2 * stretch * torch.arange(n_atoms)
    x = x + 0.1 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    near = find_neighbours(x[None], CUTOFF_A)
    numbers = torch.tensor([8, 1] * n_atoms)[:n_atoms]
    return x, numbers, near.edge_index, near.shifts


def by_autograd(model, x, numbers, edges, shifts):
    x, shifts = x.clone().requires_grad_(), shifts.clone().requires_grad_()
    atoms = model(x, numbers, edges, shifts, torch.arange(len(x)), len(x))
    return atoms.detach(), torch.autograd.grad(atoms.sum(), (x, shifts))


def test_energies_and_gradients_are_those_of_the_network(model):
    given = graph(5)
    compiled = CompiledEnergies(model.requires_grad_(False), TRACED)
    atoms, gradients = by_autograd(model, *given)
    found = compiled(*given)
    torch.testing.assert_close(found.atoms, atoms, rtol=1e-12, atol=1e-13)
    for got, expected in zip(found.gradients, gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)
    alone = compiled(*given, gradients=False)
    assert alone.gradients is None
    torch.testing.assert_close(alone.atoms, atoms, rtol=1e-12, atol=1e-13)


def test_fewer_edges_take_the_same_function_and_more_a_new_one(model, monkeypatch):
    monkeypatch.setattr(compiled_energies, "_SMALLEST_ROOM", 8)
    compiled = CompiledEnergies(model.requires_grad_(False), TRACED)
    close, apart = graph(6, stretch=0.7), graph(6, stretch=1.4)
    assert close[2].shape[1] > 1.5 * apart[2].shape[1]
    for given, made in ((apart, 1), (close, 2), (apart, 2), (close, 2)):
        found = compiled(*given)
        assert compiled.n_compiled == made
        expected, gradients = by_autograd(model, *given)
        torch.testing.assert_close(found.atoms, expected, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(found.gradients[0], gradients[0], rtol=1e-11, atol=1e-13)
    nobody = graph(6, stretch=10.0)
    assert nobody[2].shape[1] == 0
    found = compiled(*nobody)
    expected = model(*nobody, torch.arange(6), 6)
    torch.testing.assert_close(found.atoms, expected, rtol=1e-12, atol=1e-13)
    assert float(found.gradients[0].abs().max()) == 0.0


def test_rooms_are_a_little_larger_than_needed_and_always_the_same():
    found = [room_for(n) for n in range(3000)]
    assert found == sorted(found)
    assert found[0] == found[64] == 64
    assert all(n <= room <= max(64, 1.1 * n + 8) for n, room in enumerate(found))
    assert len(set(found)) < 45
    assert all(room % 8 == 0 for room in found)


def test_so_many_numbers_of_edges_are_compiled_and_no_more(model, caplog, monkeypatch):
    monkeypatch.setattr(compiled_energies, "_SMALLEST_ROOM", 8)
    monkeypatch.setattr(compiled_energies, "MOST_ROOMS", 1)
    compiled = CompiledEnergies(model.requires_grad_(False), Compiling(backend="eager"))
    with caplog.at_level(logging.WARNING):
        assert compiled(*graph(6, stretch=1.4)) is not None
        assert compiled(*graph(6, stretch=0.7)) is None
        assert compiled(*graph(6, stretch=1.4)) is not None
    assert "1 numbers of edges are compiled already" in caplog.text


def test_changed_weights_are_noticed(model):
    compiled = CompiledEnergies(model.requires_grad_(False), TRACED)
    given = graph(4)
    before = compiled(*given).atoms
    with torch.no_grad():
        model.readout[2].bias.add_(0.5)
    after = compiled(*given).atoms
    torch.testing.assert_close(after, by_autograd(model, *given)[0], rtol=1e-12, atol=1e-13)
    assert float((after - before).abs().min()) > 0.4


def test_a_third_number_of_atoms_and_large_graphs_go_uncompiled(model, caplog, monkeypatch):
    compiled = CompiledEnergies(model.requires_grad_(False), Compiling(backend="eager"))
    with caplog.at_level(logging.WARNING):
        for n in (2, 3):
            assert compiled(*graph(n)) is not None
        assert compiled(*graph(4)) is None
        assert compiled(*graph(5)) is None
        assert compiled(*graph(2)) is not None
    assert [record.message for record in caplog.records] == [
        "a graph of 4 atoms goes uncompiled: 2 numbers of atoms are compiled already"
    ]
    monkeypatch.setattr(compiled_energies, "MOST_EDGES", 4)
    with pytest.raises(RuntimeError, match=r"5 atoms and .* more than 4 edges"):
        CompiledEnergies(model, TRACED)(*graph(5))


def test_failure_is_said_once_and_survived(model, caplog):
    def broken(*_):
        raise RuntimeError("no compiler here")

    compiled = CompiledEnergies(model.requires_grad_(False), Compiling(backend=broken))
    with caplog.at_level(logging.WARNING):
        assert compiled(*graph(3)) is None
        assert compiled(*graph(4)) is None
    assert len(caplog.records) == 1
    assert "going on without compiled energies: " in caplog.text
    with pytest.raises(RuntimeError, match="no compiler here"):
        CompiledEnergies(model, Compiling(strict=True, backend=broken))(*graph(3))


@pytest.mark.slow
def test_the_compiler_s_code_gives_the_same(model):
    model = model.float().requires_grad_(False)
    given = graph(6)
    found = CompiledEnergies(model, Compiling(strict=True))(*given)
    atoms, gradients = by_autograd(model, *given)
    torch.testing.assert_close(found.atoms, atoms, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.gradients[0], gradients[0], rtol=1e-4, atol=1e-5)
