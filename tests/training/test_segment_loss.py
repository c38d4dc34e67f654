import pytest
import torch

from egno_md.bonds import bond_graph_distance
from egno_md.data.windows import Windows
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import PairGraph, distance_statistics
from egno_md.propagators.learned import molecule_graph
from egno_md.state import Molecule, maxwell_boltzmann
from egno_md.training.segment_loss import Paths, SegmentLoss, predicted, segment_measures

WATER = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)])
POSITIONS = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]).double()


def network() -> tuple[HamiltonianEGNO, PairGraph]:
    g = torch.Generator().manual_seed(0)
    frames = POSITIONS + 0.05 * torch.randn((20, 3, 3), generator=g, dtype=torch.float64)
    apart = bond_graph_distance(3, WATER.bonds, 4)
    classes, mean, spread = distance_statistics(frames, WATER.numbers, apart)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HamiltonianEGNO([1, 8], classes, n_hidden=8, n_vectors=2)
    model.distance_mean.copy_(mean)
    model.distance_spread.copy_(spread)
    return model.double(), molecule_graph(WATER, model)


def windows(n: int = 6, interval_fs: float = 2.0, n_frames: int = 6) -> Windows:
    """Windows made by the network itself at 4 fs, filled with nonsense in between."""
    model, graph = network()
    g = torch.Generator().manual_seed(2)
    x0 = POSITIONS + 0.03 * torch.randn((n, 3, 3), generator=g, dtype=torch.float64)
    v0 = maxwell_boltzmann(WATER, n, 300.0, g)
    x, v = model.eval().advance(x0, v0, graph, 3)
    x = x.detach().repeat_interleave(2, 1)
    v = v.detach().repeat_interleave(2, 1)
    x[:, ::2] = 9.0
    times = interval_fs * torch.arange(1, n_frames + 1, dtype=torch.float64)
    return Windows(WATER, x0, v0, times, x, v)


def test_paths_pick_the_network_s_times() -> None:
    w = windows()
    paths = Paths.of(w, 4.0)
    assert paths.n_steps == 3
    assert torch.equal(paths.positions[:, 0], w.positions0)
    assert torch.equal(paths.positions[:, 2], w.positions[:, 3])


def test_missing_times_are_named() -> None:
    with pytest.raises(ValueError, match="no frame 3 fs after the start"):
        Paths.of(windows(), 3.0)


def test_short_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter than one step of 40 fs"):
        Paths.of(windows(), 40.0)
    _, graph = network()
    with pytest.raises(ValueError, match="a chain of 4 needs longer windows"):
        SegmentLoss(Paths.of(windows(), 4.0), graph, 4)


def test_perfect_network_has_no_loss_and_a_damaged_one_has() -> None:
    model, graph = network()
    loss = SegmentLoss(Paths.of(windows(), 4.0), graph, 2)
    batch = loss.sample(4, torch.Generator().manual_seed(0))
    assert batch.positions.shape == (4, 3, 3, 3)
    assert loss(model, batch)[0].item() < 1e-10
    with torch.no_grad():
        model.pair_terms.add_(0.01)
    value, parts = loss(model, batch)
    assert value.item() > 1e-3
    total = sum(float(p) ** 2 for p in parts.values()) ** 0.5
    assert value.item() == pytest.approx(total)


def test_loss_scale_is_each_element_s_own() -> None:
    _, graph = network()
    paths = Paths.of(windows(), 4.0)
    loss = SegmentLoss(paths, graph, 1)
    moved = paths.positions[:, 1] - paths.positions[:, 0]
    assert loss.moved[0, 0].item() == pytest.approx(moved[:, 0].square().mean().sqrt().item())
    both = moved[:, 1:].square().mean().sqrt().item()
    assert loss.moved[0, 1].item() == pytest.approx(both)
    assert loss.moved[0, 2].item() == pytest.approx(both)


def test_thermal_scale_is_the_velocity_of_each_element() -> None:
    _, graph = network()
    paths = Paths.of(windows(), 4.0)
    loss = SegmentLoss(paths, graph, 2, "thermal")
    oxygen = paths.velocities[:, 0, 0].square().mean().sqrt().item()
    assert loss.turned[:, 0, 0].tolist() == pytest.approx([oxygen, oxygen])
    assert torch.equal(loss.moved, 2.0 * loss.turned)
    # An error of one thermal velocity in every component scores 1.
    zeros = torch.zeros(1, 2, 3, 3).double()
    error_x, error_v = loss.errors(zeros, loss.turned.expand(1, -1, -1, 3), zeros, zeros)
    assert error_x.item() == 0.0
    assert error_v.item() == pytest.approx(1.0)


def test_measures_are_relative_errors() -> None:
    model, graph = network()
    paths = Paths.of(windows(), 4.0)
    measures = segment_measures(model, paths, graph)
    assert len(measures) == 3 * 4
    assert max(abs(value) for value in measures.values()) < 1e-9
    still = Paths(WATER, paths.positions[:, :2], paths.velocities[:, :2])
    x, _ = predicted(model, still, graph)
    shifted = Paths(WATER, torch.stack([still.positions[:, 0], x[:, 0] + 0.1], 1), still.velocities)
    error = segment_measures(model, shifted, graph)["position_error_over_displacement_4fs"]
    truth = shifted.positions[:, 1] - shifted.positions[:, 0]
    expected = (0.1 * torch.ones_like(truth)).norm() / truth.norm()
    assert error == pytest.approx(expected.item())
