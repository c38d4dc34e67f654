from pathlib import Path

import pytest
import torch

from egno_md.bonds import bond_graph_distance
from egno_md.bundle import BundleCard, save_bundle
from egno_md.models.frozen_graph import Compiling
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import distance_statistics
from egno_md.propagators.learned import LearnedPropagator
from egno_md.roles import Propagator
from egno_md.segment import MadeBy
from egno_md.state import Molecule, State, maxwell_boltzmann

WATER = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)])
POSITIONS = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]).double()


def network() -> HamiltonianEGNO:
    g = torch.Generator().manual_seed(0)
    frames = POSITIONS + 0.05 * torch.randn((20, 3, 3), generator=g, dtype=torch.float64)
    apart = bond_graph_distance(3, WATER.bonds, 4)
    classes, mean, spread = distance_statistics(frames, WATER.numbers, apart)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HamiltonianEGNO([1, 8], classes, n_hidden=8, n_vectors=2)
    model.distance_mean.copy_(mean)
    model.distance_spread.copy_(spread)
    return model


def start(n: int = 2) -> State:
    g = torch.Generator().manual_seed(1)
    v = maxwell_boltzmann(WATER, n, 300.0, g)
    return State(WATER, POSITIONS.repeat(n, 1, 1), v, time_fs=100.0)


def save(folder: Path, **facts: object) -> Path:
    model = network()
    card = BundleCard.model_validate(
        {
            "name": "water",
            "kind": "egno",
            "architecture": model.architecture(),
            "elements": [1, 8],
            "horizon_fs": 12.0,
            "frame_interval_fs": 4.0,
        }
        | facts
    )
    return save_bundle(folder / "water.bundle", card, model.state_dict())


def test_segment_has_the_bundle_s_frames(tmp_path: Path) -> None:
    propagator = LearnedPropagator.from_bundle(save(tmp_path), WATER)
    assert isinstance(propagator, Propagator)
    assert propagator.n_frames == 3
    segment = propagator.advance(start())
    assert segment.times_fs.tolist() == [104.0, 108.0, 112.0]
    assert segment.positions.dtype == torch.float64
    assert (segment.made_by == int(MadeBy.NETWORK)).all()
    assert not torch.equal(segment.positions[:, 0], segment.positions[:, 1])


def test_shorter_segments_are_the_leading_frames() -> None:
    propagator = LearnedPropagator(network(), WATER, n_frames=4)
    whole, part = propagator.advance(start()), propagator.advance(start(), 2)
    assert torch.equal(part.positions, whole.positions[:, :2])
    assert torch.equal(part.velocities, whole.velocities[:, :2])


def test_same_start_gives_the_same_bits() -> None:
    propagator = LearnedPropagator(network(), WATER, n_frames=2)
    first, second = propagator.advance(start()), propagator.advance(start())
    assert torch.equal(first.positions, second.positions)
    assert propagator.restart_state() == {}


@pytest.mark.parametrize("in_a_cell", [False, True])
def test_compiled_segments_are_the_same_to_rounding(in_a_cell: bool) -> None:
    state = start()
    if in_a_cell:
        crystal = Molecule.from_numbers(WATER.numbers, bonds=WATER.bonds, pbc=(True, True, True))
        cell = 25.0 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
        state = State(crystal, state.positions, state.velocities, 100.0, cell)
    compiled, plain = (
        LearnedPropagator(network(), state.molecule, n_frames=2, compile=how).advance(state)
        for how in (Compiling(strict=True, backend="aot_eager"), False)
    )
    torch.testing.assert_close(compiled.positions, plain.positions, rtol=0, atol=1e-6)
    torch.testing.assert_close(compiled.velocities, plain.velocities, rtol=0, atol=1e-6)
    broken = Compiling(strict=True, backend="no such compiler")
    with pytest.raises(RuntimeError, match="no such compiler"):
        LearnedPropagator(network(), state.molecule, n_frames=2, compile=broken).advance(state)


def test_flipped_velocities_lead_back() -> None:
    propagator = LearnedPropagator(network(), WATER, n_frames=4, dtype=torch.float64)
    state = start()
    end = propagator.advance(state).last
    back = propagator.advance(end.with_(velocities=-end.velocities)).last
    torch.testing.assert_close(back.positions, state.positions, rtol=0, atol=1e-12)
    torch.testing.assert_close(-back.velocities, state.velocities, rtol=0, atol=1e-13)


def test_another_molecule_is_refused() -> None:
    propagator = LearnedPropagator(network(), WATER, n_frames=2)
    other = Molecule.from_numbers([1, 8, 1], bonds=[(0, 1), (1, 2)])
    with pytest.raises(ValueError, match="atoms differ"):
        propagator.advance(State.at_rest(other, POSITIONS))


def test_unknown_pairs_are_refused() -> None:
    peroxide = Molecule.from_numbers([8, 8, 1, 1], bonds=[(0, 1), (0, 2), (1, 3)])
    with pytest.raises(ValueError, match=r"atoms 0 and 1 .* not trained for"):
        LearnedPropagator(network(), peroxide, n_frames=2)


def test_a_molecule_alone_in_a_wide_cell_moves_as_in_vacuum() -> None:
    crystal = Molecule.from_numbers(WATER.numbers, bonds=WATER.bonds, pbc=(True, True, True))
    cell = 25.0 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    state = start()
    expected = LearnedPropagator(network(), WATER, n_frames=3, dtype=torch.float64).advance(state)
    inside = State(crystal, state.positions, state.velocities, 100.0, cell)
    propagator = LearnedPropagator(network(), crystal, n_frames=3, dtype=torch.float64)
    segment = propagator.advance(inside)
    torch.testing.assert_close(segment.positions, expected.positions, rtol=0, atol=1e-12)
    torch.testing.assert_close(segment.velocities, expected.velocities, rtol=0, atol=1e-13)
    assert segment.cell is cell
    with pytest.raises(ValueError, match=r"periodic along \(False.* made for \(True"):
        propagator.advance(state)


def test_many_atoms_in_vacuum_have_their_near_pairs_looked_up() -> None:
    bonds = [(3 * k, 3 * k + h) for k in range(21) for h in (1, 2)]
    drops = Molecule.from_numbers([8, 1, 1] * 21, bonds=bonds)
    # Farther apart than the cutoff: the network knows no pairs of different molecules.
    places = POSITIONS + 12.0 * torch.arange(21)[:, None, None] * torch.tensor([1.0, 0, 0])
    one = start()
    state = State(drops, places.reshape(1, -1, 3), one.velocities[:1].repeat(1, 21, 1))
    propagator = LearnedPropagator(network(), drops, n_frames=2, dtype=torch.float64)
    segment = propagator.advance(state)
    alone = LearnedPropagator(network(), WATER, n_frames=2, dtype=torch.float64).advance(one)
    moved = segment.positions[0].reshape(2, 21, 3, 3)[:, 20] - places[20]
    torch.testing.assert_close(moved, alone.positions[0] - POSITIONS, rtol=0, atol=1e-12)


def test_horizon_is_chosen_at_run_time(tmp_path: Path) -> None:
    path = save(tmp_path)
    long = LearnedPropagator.from_bundle(path, WATER, horizon_fs=20.0)
    assert long.n_frames == 5
    trained = LearnedPropagator.from_bundle(path, WATER).advance(start())
    assert torch.equal(long.advance(start()).positions[:, :3], trained.positions)
    for wrong in (10.0, 0.0, float("nan")):
        with pytest.raises(ValueError, match=r"not a multiple of the 4 fs that bundle water"):
            LearnedPropagator.from_bundle(path, WATER, horizon_fs=wrong)


def test_frames_at_any_times() -> None:
    propagator = LearnedPropagator(network(), WATER, n_frames=3, dtype=torch.float64)
    frames = propagator.advance(start())
    segment = propagator.at_times(start(), [1.0, 4.0, 6.5, 12.0])
    assert segment.times_fs.tolist() == [101.0, 104.0, 106.5, 112.0]
    assert (segment.made_by == int(MadeBy.NETWORK)).all()
    assert torch.equal(segment.positions[:, [1, 3]], frames.positions[:, [0, 2]])
    assert torch.equal(segment.velocities[:, [1, 3]], frames.velocities[:, [0, 2]])
    # Other times asked for beside it change nothing.
    again = propagator.at_times(start(), torch.tensor([0.5, 6.5]))
    torch.testing.assert_close(again.positions[:, 1], segment.positions[:, 2], rtol=0, atol=1e-15)
    for wrong in ([0.0, 1.0], [2.0, 1.0], [-1.0], [], [float("inf")]):
        with pytest.raises(ValueError, match=r"times|frame is asked"):
            propagator.at_times(start(), wrong)


@pytest.mark.parametrize("count", [0, -1])
def test_no_frames_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        LearnedPropagator(network(), WATER, n_frames=count)
    with pytest.raises(ValueError, match="at least one"):
        LearnedPropagator(network(), WATER, n_frames=1).advance(start(), count)


def test_bundle_without_a_horizon_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, horizon_fs=None)
    with pytest.raises(ValueError, match="gives no velocities"):
        LearnedPropagator.from_bundle(path, WATER)
