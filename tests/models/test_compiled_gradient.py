"""Compiled gradients: the same numbers, differentiable, and an honest way out."""

import logging

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from egno_md.models.compiled_gradient import CompiledGradient
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import pair_graph


@pytest.fixture
def water():
    numbers = torch.tensor([8, 1, 1])
    apart = torch.tensor([[0, 1, 1], [1, 0, 2], [1, 2, 0]])
    classes = [(1, 1, 2), (1, 8, 1)]
    torch.manual_seed(0)
    model = HamiltonianEGNO([1, 8], classes, n_hidden=8, n_vectors=4).double()
    graph = pair_graph(
        numbers, torch.tensor([16.0, 1.0, 1.0], dtype=torch.float64), apart, [1, 8], classes
    )
    shape = torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], dtype=torch.float64)
    return model, graph, shape + 0.05 * torch.randn(2, 3, 3, dtype=torch.float64)


def gradients(model, graph, x):
    model.zero_grad()
    force = model.force(x, graph, 1)
    force.square().sum().backward()
    return force.detach(), torch.cat(
        [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    )


def test_forces_and_their_gradients_are_the_same(water):
    model, graph, x = water
    plain = gradients(model.train(), graph, x)
    model.compiled = CompiledGradient(strict=True, backend="aot_eager")
    compiled = gradients(model, graph, x)
    for got, expected in zip(compiled, plain, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
    assert not model.eval().force(x, graph, 1).requires_grad


def test_copies_use_their_own_weights(water):
    import copy

    model, graph, x = water
    model.compiled = CompiledGradient(strict=True, backend="aot_eager")
    model.eval().force(x, graph, 0)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.pair_terms.add_(0.5)
    apart = (other.force(x, graph, 0) - model.force(x, graph, 0)).abs().max()
    assert apart > 0.1


def test_replicas_cut_from_segments_are_compiled_once(water):
    model, graph, x = water
    counter = CompileCounter()
    model.compiled = CompiledGradient(strict=True, backend=counter)
    for n in (1, 2):
        segments = torch.stack([x[:n], x[:n]], 1)
        expected = model.eval().force(x[:n], graph, 0)
        torch.testing.assert_close(model.force(segments[:, -1], graph, 0), expected)
        assert counter.frame_count == n


def test_failure_is_said_once_and_survived(water, caplog):
    model, graph, x = water
    expected = model.eval().force(x, graph, 0)

    def broken(*_):
        raise RuntimeError("no compiler here")

    model.compiled = CompiledGradient(backend=broken)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            torch.testing.assert_close(model.force(x, graph, 0), expected)
    assert len(caplog.records) == 1
    assert "without compiled" in caplog.text
    model.compiled = CompiledGradient(strict=True, backend=broken)
    with pytest.raises(RuntimeError, match="no compiler here"):
        model.force(x, graph, 0)
