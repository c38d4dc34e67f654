from pathlib import Path

import pytest
import torch

from egno_md.bonds import bond_graph_distance
from egno_md.bundle import BundleCard, save_bundle
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


def test_periodic_molecules_are_refused() -> None:
    crystal = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)], pbc=(True, True, True))
    with pytest.raises(ValueError, match="periodic"):
        LearnedPropagator(network(), crystal, n_frames=2)


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
