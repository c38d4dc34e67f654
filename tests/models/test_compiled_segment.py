"""Segments by stages: the network's own frames, no force twice, compiled or not."""

import logging

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from egno_md.models.compiled_segment import SegmentMap
from egno_md.models.frozen_graph import Compiling
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import pair_graph

TRACED = Compiling(strict=True, backend="aot_eager")


def water(n_stages=2, dtype=torch.float64):
    apart = torch.tensor([[0, 1, 1], [1, 0, 2], [1, 2, 0]])
    classes = [(1, 1, 2), (1, 8, 1)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HamiltonianEGNO([1, 8], classes, n_hidden=8, n_vectors=4, n_stages=n_stages)
    masses = torch.tensor([16.0, 1.0, 1.0], dtype=torch.float64)
    graph = pair_graph(torch.tensor([8, 1, 1]), masses, apart, [1, 8], classes)
    return model.to(dtype).eval().requires_grad_(False), graph


def start(n=2):
    g = torch.Generator().manual_seed(1)
    shape = torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], dtype=torch.float64)
    x = shape + 0.05 * torch.randn((n, 3, 3), generator=g, dtype=torch.float64)
    return x, 0.01 * torch.randn((n, 3, 3), generator=g, dtype=torch.float64)


def count_forces(model, monkeypatch):
    calls = []
    inner = model.potentials

    def counted(*given):
        calls.append(1)
        return inner(*given)

    monkeypatch.setattr(model, "potentials", counted)
    return calls


@pytest.mark.parametrize("n_stages", [2, 3])
def test_frames_are_the_network_s_bit_for_bit(n_stages):
    model, graph = water(n_stages, torch.float32)
    x, v = start()
    frames = SegmentMap(model, graph).advance(x, v, 3)
    for got, first, rest in zip(frames, (x, v), model.advance(x, v, graph, 3), strict=True):
        assert torch.equal(got, torch.cat([first[:, None], rest], 1))


@pytest.mark.parametrize("compiling", [None, TRACED])
def test_the_last_force_serves_the_next_segment(compiling, monkeypatch):
    model, graph = water()
    going, restored = SegmentMap(model, graph, compiling), SegmentMap(model, graph, compiling)
    xs, vs = going.advance(*start(), 2)
    x, v = xs[:, -1], -0.7 * vs[:, -1]
    restored.advance(*start(), 1)
    expected = restored.advance(x, v, 2)
    calls = count_forces(model, monkeypatch)
    got = going.advance(x, v, 2)
    assert len(calls) == (4 if compiling is None else 0)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    # One replica has moved: nothing remembered serves.
    moved = x.clone()
    moved[0, 0, 0] += 1e-9
    fresh = SegmentMap(model, graph, compiling)
    for a, b in zip(going.advance(moved, v, 1), fresh.advance(moved, v, 1), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_frames_are_the_same_to_rounding(dtype):
    model, graph = water(dtype=dtype)
    x, v = start()
    plain = SegmentMap(model, graph).advance(x, v, 3)
    compiled = SegmentMap(model, graph, TRACED).advance(x, v, 3)
    scale = 3e-7 if dtype == torch.float32 else 1e-15
    for got, expected in zip(compiled, plain, strict=True):
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, expected, rtol=10 * scale, atol=10 * scale)


@pytest.mark.parametrize("compiling", [None, TRACED])
def test_changed_weights_are_noticed(compiling):
    model, graph = water()
    stages = SegmentMap(model, graph, compiling)
    xs, vs = stages.advance(*start(), 1)
    with torch.no_grad():
        model.pair_terms.add_(0.5)
    got, _ = stages.advance(xs[:, -1], vs[:, -1], 1)
    expected, _ = model.advance(xs[:, -1], vs[:, -1], graph, 1)
    torch.testing.assert_close(got[:, 1:], expected, rtol=0, atol=1e-13)


def test_each_shape_is_compiled_once():
    model, graph = water()
    counter = CompileCounter()
    stages = SegmentMap(model, graph, Compiling(strict=True, backend=counter))
    for n in (1, 2):
        for _ in range(2):
            xs, vs = stages.advance(*start(n), 2)
            stages.advance(xs[:, -1], vs[:, -1], 1)
        assert counter.frame_count == n


def test_failure_is_said_once_and_survived(caplog):
    def broken(*_):
        raise RuntimeError("no compiler here")

    model, graph = water()
    expected = SegmentMap(model, graph).advance(*start(), 2)
    stages = SegmentMap(model, graph, Compiling(backend=broken))
    with caplog.at_level(logging.WARNING):
        for n in (1, 2):
            got = stages.advance(*start(n), 2)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert len(caplog.records) == 1
    assert "without compiled segments" in caplog.text
    strict = SegmentMap(model, graph, Compiling(strict=True, backend=broken))
    with pytest.raises(RuntimeError, match="no compiler here"):
        strict.advance(*start(), 1)


@pytest.mark.slow
def test_the_compiler_s_code_gives_the_same_and_resumes_bit_for_bit():
    model, graph = water(dtype=torch.float32)
    strict = Compiling(strict=True)
    going = SegmentMap(model, graph, strict)
    xs, vs = going.advance(*start(), 2)
    for got, expected in zip((xs, vs), SegmentMap(model, graph).advance(*start(), 2), strict=True):
        torch.testing.assert_close(got, expected, rtol=3e-6, atol=3e-6)
    resumed = SegmentMap(model, graph, strict).advance(xs[:, -1], vs[:, -1], 2)
    for a, b in zip(going.advance(xs[:, -1], vs[:, -1], 2), resumed, strict=True):
        assert torch.equal(a, b)
