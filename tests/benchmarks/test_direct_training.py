import math

import pytest
import torch

from egno_md.benchmarks.direct_egno import DirectEGNO
from egno_md.benchmarks.direct_training import UnrolledLoss
from egno_md.bonds import bond_graph_distance
from egno_md.models.pair_classes import PairGraph, distance_statistics, pair_graph
from egno_md.state import Molecule, maxwell_boltzmann
from egno_md.training.segment_loss import Paths

WATER = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)])
POSITIONS = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]).double()


def network(horizon_fs: float) -> tuple[DirectEGNO, PairGraph]:
    g = torch.Generator().manual_seed(0)
    frames = POSITIONS + 0.05 * torch.randn((20, 3, 3), generator=g, dtype=torch.float64)
    apart = bond_graph_distance(3, WATER.bonds, 4)
    classes, mean, spread = distance_statistics(frames, WATER.numbers, apart)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DirectEGNO([1, 8], classes, n_hidden=8, n_vectors=3, horizon_fs=horizon_fs)
        torch.nn.init.normal_(model.pair_terms, std=0.3)
    model.distance_mean.copy_(mean)
    model.distance_spread.copy_(spread)
    return model.double(), pair_graph(WATER.numbers, WATER.masses, apart, [1, 8], classes)


def starts(n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    x = POSITIONS + 0.05 * torch.randn((n, 3, 3), generator=g, dtype=torch.float64)
    return x, maxwell_boltzmann(WATER, n, 300.0, g)


def own_paths(model: DirectEGNO, graph: PairGraph) -> Paths:
    """Two segments of 2 fs that the network made itself, frames every 1 fs."""
    x, v = starts()
    xs, vs = [x], [v]
    times = torch.tensor([1.0, 2.0]).double()
    with torch.no_grad():
        for _ in range(2):
            more_x, more_v = model.advance(xs[-1], vs[-1], graph, times)
            xs += list(more_x.unbind(1))
            vs += list(more_v.unbind(1))
    return Paths(WATER, torch.stack(xs, 1), torch.stack(vs, 1))


def unrolled(model: DirectEGNO, graph: PairGraph, n_chain: int = 2) -> UnrolledLoss:
    times = torch.tensor([1.0, 2.0]).double()
    return UnrolledLoss(
        lambda network, x, v: network.advance(x, v, graph, times),
        own_paths(model, graph),
        1.0,
        [1.0, 2.0],
        n_chain=n_chain,
        noise=0.02,
    )


def test_unrolled_loss_vanishes_on_the_network_s_own_segments() -> None:
    model, graph = network(2.0)
    loss = unrolled(model, graph)
    x, v, noise_x, noise_v = loss.sample(4, torch.Generator().manual_seed(0))
    assert x.shape == (4, 5, 3, 3)
    assert noise_x.abs().max() > 0
    still = torch.zeros_like(noise_x)
    assert loss(model, (x, v, still, still))[0].item() < 1e-6
    assert loss(model, (x, v, noise_x, noise_v))[0].item() > 1e-3


def test_unrolled_gradient_flows_through_the_first_segment() -> None:
    model, graph = network(2.0)
    loss = unrolled(model, graph)
    batch = loss.sample(4, torch.Generator().manual_seed(0))
    value = loss(model, batch)[0]
    value.backward()
    total = sum(p.grad.abs().sum() for p in model.parameters() if p.grad is not None)
    assert total > 0
    assert math.isfinite(total)


def test_short_windows_are_refused() -> None:
    model, graph = network(2.0)
    with pytest.raises(ValueError, match="3 segments of 2 fs need longer ones"):
        unrolled(model, graph, n_chain=3)
