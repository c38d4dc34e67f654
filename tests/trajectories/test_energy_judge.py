"""The judge of energies: what it accepts, asks for, remembers and restores."""

import math

import pytest
import torch

from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.energy_frames import REMEMBERED
from egno_md.propagators.energy_judge import EnergyJudge
from egno_md.propagators.guarded import GuardedPropagator
from egno_md.roles import Verdict
from tests.trajectories.water_on_springs import Springs


def test_energy_judge_keeps_the_frames_before_the_jump(start, segment) -> None:
    segment.velocities[1, 2:] *= 1.5
    verdict = EnergyJudge(Springs(), 0.01).judge(start, segment)
    assert verdict.n_accepted.tolist() == [4, 2, 4]
    reason = verdict.reasons[1]
    assert reason.startswith("total energy changes by 0.")
    assert reason.endswith("eV in 6 fs; allowed 0.01 eV")
    expected = torch.stack([Springs().energies(segment.frame(f)) for f in range(4)], 1)
    torch.testing.assert_close(verdict.potential_energies[1], expected[1])
    torch.testing.assert_close(verdict.potential_energies[:, 3], expected[:, 3])
    assert bool(verdict.potential_energies[0, :3].isnan().all())


def test_energy_judge_turns_refusals_and_nan_into_reasons(start, segment) -> None:
    segment.positions[0, 3, 0, 0] = 60.0
    segment.positions[2, 1:, 1, 1] = 30.0
    judge = EnergyJudge(Springs(), 0.01)
    verdict = judge.judge(start, segment)
    assert verdict.n_accepted.tolist() == [3, 4, 1]
    assert verdict.reasons[0] == "the guard potential refuses: atoms too far away"
    assert verdict.reasons[2] == "the guard potential gives an energy of nan eV"
    # A start that the potential refuses condemns the whole segment of that replica only.
    far = start.with_(positions=start.positions + torch.tensor([60.0, 0, 0])[:, None, None])
    verdict = EnergyJudge(Springs(), 0.01).judge(far, segment)
    assert verdict.n_accepted.tolist() == [0, 4, 1]
    assert verdict.reasons[0].startswith("at the start of the segment: the guard potential refuses")


def test_energy_judge_remembers_the_last_energy(start, segment) -> None:
    potential = Springs()
    judge = EnergyJudge(potential, 0.01)
    judge.judge(start, segment)
    assert (potential.calls, potential.asked) == (2, 6)
    verlet = VelocityVerlet(Springs(), 0.25, 2.0, 4)
    judge.judge(segment.last, verlet.advance(segment.last))
    assert (potential.calls, potential.asked) == (3, 9)
    second = verlet.advance(segment.last)
    moved = second.last.with_(positions=second.last.positions.clone())
    moved.positions[1, 0, 0] += 1e-9
    judge.judge(moved, verlet.advance(moved))
    assert (potential.calls, potential.asked) == (5, 13)


def test_energy_judge_keeps_the_largest_error_it_let_pass(start, segment) -> None:
    judge = EnergyJudge(Springs(), 0.01)
    judge.judge(start, segment)
    healthy = judge.largest_eV
    assert 0.0 < healthy < 0.01
    segment.velocities[1, 2:] *= 1.5  # rejected, so not a part of the largest error
    judge.judge(start, segment)
    assert judge.largest_eV < 0.01
    wide = EnergyJudge(Springs(), 10.0)
    wide.judge(start, segment)
    assert wide.largest_eV > 0.01
    with pytest.raises(ValueError, match="limit_eV is 0"):
        EnergyJudge(Springs(), 0.0)


def test_what_another_judge_cuts_is_no_error_that_was_let_pass(start, segment) -> None:
    class First:
        """Cuts replica 1 after two frames."""

        name = "first"

        def judge(self, start, segment):
            n = torch.full((segment.n_replicas,), segment.n_frames)
            n[1] = 2
            return Verdict(n, (None, "so", None))

        def restart_state(self):
            return {}

        def restore(self, saved):
            pass

    class Given(VelocityVerlet):
        def advance(self, state, n_frames=None):
            return segment

    segment.velocities[1, 2:] *= 1.5
    fast, safe = (kind(Springs(), 0.25, 2.0, 4) for kind in (Given, VelocityVerlet))
    alone, after = EnergyJudge(Springs(), 10.0, frames="all"), EnergyJudge(Springs(), 10.0)
    assert math.isnan(alone.largest_eV)
    GuardedPropagator(fast, safe, [alone]).advance(start)
    assert alone.largest_eV > 0.01
    GuardedPropagator(fast, safe, [First(), after]).advance(start)
    assert 0.0 < after.largest_eV < 0.01
    again = EnergyJudge(Springs(), 10.0)
    again.restore(after.restart_state())
    assert again.largest_eV == after.largest_eV


def test_energy_judge_remembers_nothing_of_another_cell(start, segment) -> None:
    potential = Springs()
    judge = EnergyJudge(potential, 0.01)
    judge.judge(start, segment)
    assert potential.asked == 6
    cell = 20.0 * torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
    here = segment.last.with_(cell=cell)
    following = VelocityVerlet(Springs(), 0.25, 2.0, 4).advance(here)
    judge.judge(here, following)
    assert potential.asked == 12
    # In that very cell the ends are known, in one that a barostat changed they are not.
    judge.judge(following.last, following)
    assert potential.asked == 15
    judge.judge(segment.last.with_(cell=1.01 * cell), following)
    assert potential.asked == 21


def test_energy_judge_wants_a_potential() -> None:
    with pytest.raises(ValueError, match=r"potential is the name 'ethanol-escn', which is no pot"):
        EnergyJudge("ethanol-escn", 0.1)


def test_energy_judge_sees_what_comes_back_by_chance_only_in_every_frame(start, segment) -> None:
    segment.velocities[1, 2] *= 1.5  # and the last frame is as good as ever
    assert EnergyJudge(Springs(), 0.01).judge(start, segment).n_accepted.tolist() == [4, 4, 4]
    verdict = EnergyJudge(Springs(), 0.01, frames="all").judge(start, segment)
    assert verdict.n_accepted.tolist() == [4, 2, 4]
    assert verdict.reasons[1].startswith("total energy changes by")
    assert bool(torch.isfinite(verdict.potential_energies).all())


def test_energy_judge_asks_for_every_frame_until_it_trusts(start, segment) -> None:
    good = segment.velocities.clone()
    segment.velocities[1, 2] *= 1.5  # and the last frame is as good as ever
    judge = EnergyJudge(Springs(), 0.01, frames="auto")
    assert judge.judge(start, segment).n_accepted.tolist() == [4, 2, 4]
    judge.watchfulness.note(torch.ones(REMEMBERED, dtype=torch.bool))
    assert judge.judge(start, segment).n_accepted.tolist() == [4, 4, 4]
    segment.velocities.copy_(good)
    segment.velocities[:, 3] *= 1.5
    for _ in range(2):  # six rejections
        assert judge.judge(start, segment).n_accepted.tolist() == [3, 3, 3]
    again = EnergyJudge(Springs(), 0.01, frames="auto")
    again.restore(judge.restart_state())
    segment.velocities.copy_(good)
    segment.velocities[1, 2] *= 1.5
    assert again.judge(start, segment).n_accepted.tolist() == [4, 2, 4]


def test_energy_judge_remembers_replicas_that_are_asked_in_turns(start, segment) -> None:
    potential = Springs()
    judge = EnergyJudge(potential, 0.01)
    judge.judge(start, segment)
    verlet = VelocityVerlet(Springs(), 0.25, 2.0, 4)
    after = segment.last
    for rows in ([2], [0, 1]):  # the starts of both turns are known: only the ends are asked
        here = after.replica(rows)
        judge.judge(here, verlet.advance(here))
    assert potential.asked == 6 + 3
    last = verlet.advance(after).last
    judge.judge(last, verlet.advance(last))
    assert potential.asked == 9 + 3


def test_energy_judge_restarts_where_it_was(start, segment) -> None:
    first, fresh = EnergyJudge(Springs(), 0.01), EnergyJudge(Springs(), 0.01)
    fresh.restore(first.restart_state())
    first.judge(start, segment)
    fresh.restore({name: tensor.clone() for name, tensor in first.restart_state().items()})
    assert fresh.largest_eV == first.largest_eV > 0.0
    following = VelocityVerlet(Springs(), 0.25, 2.0, 4).advance(segment.last)
    a, b = first.judge(segment.last, following), fresh.judge(segment.last, following)
    assert torch.equal(a.n_accepted, b.n_accepted)
    assert (first.potential.asked, fresh.potential.asked) == (9, 3)
    assert torch.equal(a.potential_energies[:, -1], b.potential_energies[:, -1])
    with pytest.raises(ValueError, match="no largest error"):
        fresh.restore({})
