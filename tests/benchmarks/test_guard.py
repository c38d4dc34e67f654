"""The damage test itself: it must see failures that a guard without judges lets through."""

import json

import pytest
import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.guard import measure
from egno_md.benchmarks.guard_cases import CASES, damaged_network, start_of
from egno_md.benchmarks.guard_signals import rank_correlation
from egno_md.benchmarks.guard_trial import (
    Checked,
    Recorded,
    TrialResult,
    bond_deviations_A,
    energy_errors_of_frames,
    run_trial,
)
from egno_md.bundle import load_bundle
from egno_md.data.structures import read_structure
from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.energy_judge import EnergyJudge
from egno_md.propagators.guarded import GuardedPropagator
from egno_md.segment import MadeBy
from egno_md.state import Molecule, State
from egno_md.trajectories.judges import BondJudge
from tests.trajectories.dimer import Dimer

LENGTHS = torch.tensor([1.0], dtype=torch.float64)


class Network(Recorded):
    """Velocity Verlet that says it is a network, and stretches replica 1 from frame 3 on."""

    def __init__(self, stretch_A):
        super().__init__(VelocityVerlet(Dimer(), 0.25, 1.0, 4))
        self.stretch_A = stretch_A

    def advance(self, state, n_frames=None):
        segment = super().advance(state, n_frames)
        segment.made_by[:] = int(MadeBy.NETWORK)
        if state.n_replicas > 1 and segment.n_frames > 3:
            segment.positions[1, 3:, 1, 0] += self.stretch_A
        return segment


@pytest.fixture
def start():
    x = torch.zeros((3, 2, 3), dtype=torch.float64)
    x[:, 1, 0] = torch.tensor([1.02, 1.0, 0.99])
    return State(Molecule.from_numbers([6, 1], bonds=[(0, 1)]), x, torch.zeros_like(x))


def trial(start, stretch_A, judges, limit_eV=0.05):
    safe = VelocityVerlet(Dimer(), 0.25, 1.0, 4)
    guard = GuardedPropagator(Network(stretch_A), safe, judges)
    checked = Checked(guard, Dimer(), LENGTHS, limit_eV)
    bath = (300.0, 1.0, torch.Generator().manual_seed(4))
    return run_trial(checked, start, 12, bath)


def test_failures_that_nobody_judges_are_counted(start):
    blind = trial(start, 0.8, [])
    # The last frame of each segment of one replica, and frames that go on from there.
    assert blind.undetected >= 3
    assert blind.largest_bond_A == pytest.approx(0.8, abs=0.2)
    assert blind.largest_energy_eV > 1.0
    assert (blind.proposals, blind.n_rejected) == (9, 0)
    far = trial(start, 90.0, [])
    assert far.undetected >= 1
    assert far.stopped is not None  # the potential refuses to go on from there


def test_a_guard_that_judges_lets_none_through(start):
    judges = [BondJudge(LENGTHS, 0.5), EnergyJudge(Dimer(), 0.05)]
    found = trial(start, 0.8, judges)
    assert found.undetected == 0
    assert found.rejections == {"bond lengths": 3}
    assert found.false_alarms == 0
    assert found.frames == {"NETWORK": 33, "INTEGRATOR": 3}
    assert found.largest_energy_eV < 0.05
    assert found.network_share == pytest.approx(33 / 36)


def test_what_a_trial_found_survives_a_file(start):
    found = trial(start, 0.8, [BondJudge(LENGTHS, 0.5)])
    again = TrialResult.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert again.n_rejected == 3


def test_a_nervous_guard_gives_false_alarms(start):
    healthy = trial(start, 0.0, [EnergyJudge(Dimer(), 1e-9)], limit_eV=0.05)
    assert healthy.n_rejected == healthy.false_alarms == 9
    calm = trial(start, 0.0, [EnergyJudge(Dimer(), 0.05)])
    assert calm.n_rejected == calm.false_alarms == calm.undetected == 0


def test_every_frame_is_looked_at(start):
    segment = VelocityVerlet(Dimer(), 0.25, 1.0, 4).advance(start)
    good = energy_errors_of_frames(Dimer(), start, segment)
    assert good.shape == (3, 4)
    assert float(good.max()) < 1e-3
    segment.positions[0, 1] += 60.0
    segment.positions[2, 2, 1] = torch.nan
    errors = energy_errors_of_frames(Dimer(), start, segment)
    assert errors.isinf().nonzero().tolist() == [[0, 1], [2, 2]]
    assert bond_deviations_A(segment, LENGTHS).isinf().nonzero().tolist() == [[2, 2]]
    kept = ~errors.isinf()
    torch.testing.assert_close(errors[kept], good[kept])


def ethanol():
    from importlib import resources
    from pathlib import Path

    return read_structure(Path(str(resources.files("egno_md"))) / "examples" / "ethanol.xyz")


def test_noise_moves_the_network_and_none_does_not():
    bundle, rest = load_bundle("ethanol-egno"), ethanol()
    ends = [
        damaged_network(bundle, rest.molecule, noise, seed, 4).advance(rest).positions[:, -1]
        for noise, seed in ((0.0, 1), (0.0, 2), (0.05, 1), (0.05, 1), (0.05, 2))
    ]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[2], ends[3])
    assert not torch.equal(ends[0], ends[2])
    assert not torch.equal(ends[2], ends[4])


def test_starts_are_what_the_cases_say():
    rest = ethanol()
    good = State(
        rest.molecule, rest.positions.double().expand(4, -1, -1), torch.zeros((4, 9, 3)).double()
    )
    stretched = start_of(CASES["stretched"], good, 1)
    moved = (stretched.positions - good.positions).norm(dim=-1)
    assert int((moved > 0).sum()) == 4
    assert moved.amax(1).tolist() == pytest.approx([0.4] * 4)
    hot = start_of(CASES["hot-start"], good, 1)
    assert torch.equal(hot.positions, good.positions)
    assert float(hot.velocities.abs().max()) > 0.0
    ether = start_of(CASES["isomer"], good, 1)
    i, j = ether.molecule.bonds.T
    lengths = (ether.positions[0, i] - ether.positions[0, j]).norm(dim=-1)
    assert lengths.tolist() == pytest.approx([1.41] * 2 + [1.09] * 6)
    apart = torch.pdist(ether.positions[0])
    assert float(apart.min()) == pytest.approx(1.09)
    assert int((apart < 1.7).sum()) == 8  # bonds only
    with pytest.raises(ValueError, match="pair"):
        damaged_network(load_bundle("ethanol-egno"), ether.molecule, 0.0, 1, 4)


def test_rank_correlation():
    a = torch.tensor([0.1, 3.0, 2.0, 50.0])
    assert rank_correlation(a, a.exp()) == pytest.approx(1.0)
    assert rank_correlation(a, -a) == pytest.approx(-1.0)
    assert rank_correlation(a, torch.tensor([1.0, 2.0, 3.0, 4.0])) == pytest.approx(0.8)


def test_unknown_rows_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"no rows \['nose'\] in guard; there are healthy"):
        measure(BenchmarkConfig(name="guard", rows=("nose",), out=str(tmp_path)))
    assert not list(tmp_path.iterdir())
