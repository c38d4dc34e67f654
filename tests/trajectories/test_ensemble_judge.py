"""Networks that disagree name the frame and the atom; those that agree let it pass."""

import math
from dataclasses import replace

import pytest
import torch

from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.thermostat import Thermostatted
from egno_md.roles import EnergyForces, Judge
from egno_md.state import Molecule, State
from egno_md.trajectories.ensemble_judge import EnsembleJudge

WATER = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)])


class Spring:
    """Every coordinate on a spring to zero, stiffer for one atom."""

    def __init__(self, extra=0.0):
        self.stiffness = torch.tensor([5.0, 5.0, 5.0 + extra])[:, None]

    def evaluate(self, state):
        return EnergyForces(self.energies(state), -self.stiffness * state.positions)

    def energies(self, state):
        return 0.5 * (self.stiffness * state.positions.double() ** 2).sum((1, 2))


def verlet(extra=0.0, interval=1.0):
    return VelocityVerlet(Spring(extra), 0.5, interval, 6)


@pytest.fixture
def start():
    x = 0.3 * torch.randn((2, 3, 3), generator=torch.Generator().manual_seed(1)).double()
    return State(WATER, x, torch.zeros_like(x), time_fs=5.0)


def test_members_that_agree_accept_all(start):
    judge = EnsembleJudge([verlet(), verlet()], 1e-9)
    assert isinstance(judge, Judge)
    verdict = judge.judge(start, verlet().advance(start))
    assert verdict.n_accepted.tolist() == [6, 6]
    assert verdict.reasons == (None, None)


def test_disagreement_grows_and_names_the_atom(start):
    judge = EnsembleJudge([verlet(4.0), verlet()], 0.01)
    segment = verlet().advance(start)
    apart = judge.disagreement_A(start, segment)
    expected = (verlet(4.0).advance(start).positions - segment.positions).norm(dim=-1) / 2
    torch.testing.assert_close(apart, expected)
    assert float(apart[:, :, :2].max()) == 0.0
    verdict = judge.judge(start, segment)
    k = int(verdict.n_accepted[0])
    assert 0 < k < 6
    assert float(apart[0, k - 1, 2]) <= 0.01 < float(apart[0, k, 2])
    assert verdict.reasons[0].startswith("H2 is 0.")
    assert verdict.reasons[0].endswith("from where 2 other network(s) put it; allowed 0.01 Å")


def test_frames_that_are_not_finite_are_not_accepted(start):
    segment = verlet().advance(start)
    segment.positions[1, 3, 0] = math.nan
    assert EnsembleJudge([verlet()], 1.0).judge(start, segment).n_accepted.tolist() == [6, 3]


def test_members_must_be_propagators_without_a_bath_for_the_same_masses(start):
    bathed = Thermostatted(verlet(), 300.0, 5.0, torch.Generator().manual_seed(0))
    for member, words in (("ethanol-egno", "is a propagator, got str"), (bathed, "it has a bath")):
        with pytest.raises(ValueError, match=words):
            EnsembleJudge([member], 1.0)
    other = verlet()
    other.molecule = replace(WATER, masses=WATER.masses * torch.tensor([1.0, 1.0, 2.0]))
    judge = EnsembleJudge(other, 1.0)
    with pytest.raises(ValueError, match=r"atom 2 has mass 1.008 amu here and 2.016 amu in a mem"):
        judge.judge(start, verlet().advance(start))


def test_what_cannot_be_compared_is_refused(start):
    for members, limit, words in (
        ([], 1.0, "at least one member"),
        ([verlet()], 0.0, "limit_A is 0"),
        ([verlet(), verlet(interval=2.0)], 1.0, r"every \[1.0, 2.0\] fs"),
    ):
        with pytest.raises(ValueError, match=words):
            EnsembleJudge(members, limit)
    with pytest.raises(ValueError, match=r"every 2.0 fs, the segment has its first at 1.0 fs"):
        EnsembleJudge([verlet(interval=2.0)], 1.0).judge(start, verlet().advance(start))
