import math

import pytest
import torch

from egno_md.benchmarks.direct_egno import DirectEGNO
from egno_md.bonds import bond_graph_distance
from egno_md.models.pair_classes import PairGraph, distance_statistics, pair_graph
from egno_md.state import Molecule, maxwell_boltzmann

WATER = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)])
POSITIONS = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]).double()
TIMES = torch.tensor([0.0, 1.0, 2.5, 8.0]).double()


def network() -> tuple[DirectEGNO, PairGraph]:
    g = torch.Generator().manual_seed(0)
    frames = POSITIONS + 0.05 * torch.randn((20, 3, 3), generator=g, dtype=torch.float64)
    apart = bond_graph_distance(3, WATER.bonds, 4)
    classes, mean, spread = distance_statistics(frames, WATER.numbers, apart)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DirectEGNO([1, 8], classes, n_hidden=8, n_vectors=3)
        torch.nn.init.normal_(model.pair_terms, std=0.3)
    model.distance_mean.copy_(mean)
    model.distance_spread.copy_(spread)
    graph = pair_graph(WATER.numbers, WATER.masses, apart, [1, 8], classes)
    return model.double().eval(), graph


def start(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    x = POSITIONS + 0.05 * torch.randn((n, 3, 3), generator=g, dtype=torch.float64)
    return x, maxwell_boltzmann(WATER, n, 300.0, g)


def test_start_is_exact_and_the_rest_is_more_than_free_flight() -> None:
    model, graph = network()
    x, v = start()
    with torch.no_grad():
        xs, vs = model.advance(x, v, graph, TIMES)
    assert torch.equal(xs[:, 0], x)
    assert torch.equal(vs[:, 0], v)
    free = x[:, None] + TIMES[:, None, None] * v[:, None]
    assert (xs[:, 1:] - free[:, 1:]).abs().amax((0, 2, 3)).min() > 1e-4
    assert (vs[:, 1:] - v[:, None]).abs().amax((0, 2, 3)).min() > 1e-4


def test_small_times_follow_the_velocity() -> None:
    model, graph = network()
    x, v = start()
    t = torch.tensor([1e-4]).double()
    with torch.no_grad():
        xs, _ = model.advance(x, v, graph, t)
    torch.testing.assert_close((xs[:, 0] - x) / 1e-4, v, rtol=0, atol=1e-4)


def test_times_asked_together_or_alone_agree() -> None:
    model, graph = network()
    x, v = start()
    with torch.no_grad():
        together = model.advance(x, v, graph, TIMES)[0]
        alone = [model.advance(x, v, graph, TIMES[k : k + 1])[0][:, 0] for k in range(4)]
    torch.testing.assert_close(together, torch.stack(alone, 1), rtol=0, atol=1e-13)


def test_rotation_reflection_shift_and_boost_go_through() -> None:
    model, graph = network()
    x, v = start()
    g = torch.Generator().manual_seed(2)
    turn = torch.linalg.qr(torch.randn((3, 3), generator=g, dtype=torch.float64))[0]
    boost, shift = torch.tensor([[0.1, -0.2, 0.3], [5.0, 1.0, -2.0]]).double()
    with torch.no_grad():
        xs, vs = model.advance(x, v, graph, TIMES)
        for q in (turn, -turn):
            moved_x, moved_v = model.advance(x @ q + shift, v @ q + boost, graph, TIMES)
            flown = xs @ q + shift + TIMES[:, None, None] * boost
            torch.testing.assert_close(moved_x, flown, rtol=0, atol=1e-11)
            torch.testing.assert_close(moved_v, vs @ q + boost, rtol=0, atol=1e-11)


def test_permuted_hydrogens_give_permuted_segments() -> None:
    model, graph = network()
    x, v = start()
    order = [0, 2, 1]
    with torch.no_grad():
        xs, vs = model.advance(x, v, graph, TIMES)
        swapped_x, swapped_v = model.advance(x[:, order], v[:, order], graph, TIMES)
    torch.testing.assert_close(swapped_x, xs[:, :, order], rtol=0, atol=1e-12)
    torch.testing.assert_close(swapped_v, vs[:, :, order], rtol=0, atol=1e-12)


def test_momentum_and_centre_of_mass_are_exact() -> None:
    model, graph = network()
    x, v = start()
    masses = WATER.masses[:, None]
    with torch.no_grad():
        xs, vs = model.advance(x, v, graph, TIMES)
    momentum = (masses * v).sum(-2)[:, None]
    torch.testing.assert_close(
        (masses * vs).sum(-2), momentum.expand(-1, 4, -1), rtol=0, atol=1e-14
    )
    centre = ((masses * x).sum(-2)[:, None] + TIMES[:, None] * momentum) / masses.sum()
    torch.testing.assert_close((masses * xs).sum(-2) / masses.sum(), centre, rtol=0, atol=1e-13)


def test_series_has_the_period_of_four_horizons() -> None:
    model, graph = network()
    x, v = start()
    far = torch.full((4, 1), 32.0).double()
    with torch.no_grad():
        here = model.mean_velocity(x, v, far + 3.0, graph)[1]
        back = model.mean_velocity(x, v, far - far + 3.0, graph)[1]
    assert model.frequencies[0].item() == pytest.approx(2 * math.pi / 32.0)
    torch.testing.assert_close(here, back, rtol=0, atol=1e-6)
