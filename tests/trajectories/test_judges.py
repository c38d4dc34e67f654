from __future__ import annotations

import math

import pytest
import torch

from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.energy_frames import REMEMBERED
from egno_md.propagators.guarded import GuardedPropagator
from egno_md.roles import EnergyForces, Judge, Verdict
from egno_md.segment import Segment
from egno_md.state import Molecule, State, maxwell_boltzmann
from egno_md.trajectories.judges import (
    BondJudge,
    ContactJudge,
    EnergyJudge,
    FiniteJudge,
    TemperatureJudge,
    temperature_band,
)

WATER = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)])
SHAPE = torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], dtype=torch.float64)


class Springs:
    """Every coordinate on a spring to its place in water; refuses x > 50 Å, NaN beyond 20 Å."""

    def __init__(self):
        self.calls, self.asked = 0, 0

    def evaluate(self, state):
        return EnergyForces(self._energy(state), -3.0 * (state.positions - SHAPE))

    def energies(self, state):
        self.calls += 1
        self.asked += state.n_replicas
        far = state.positions.flatten(1).max(1).values
        if bool((far > 50.0).any()):
            raise ValueError("atoms too far away")
        energy = self._energy(state)
        energy[far > 20.0] = math.nan
        return energy

    def _energy(self, state):
        return 1.5 * (state.positions - SHAPE).square().sum((1, 2))


@pytest.fixture
def start() -> State:
    v = maxwell_boltzmann(WATER, 3, 300.0, torch.Generator().manual_seed(8))
    return State(WATER, SHAPE.expand(3, 3, 3).clone(), v, time_fs=100.0)


@pytest.fixture
def segment(start) -> Segment:
    """Four frames of good dynamics of three replicas, free to be spoiled."""
    return VelocityVerlet(Springs(), 0.25, 2.0, 4).advance(start)


def every_judge():
    return [
        FiniteJudge(),
        BondJudge(torch.tensor([0.96, 0.96]), 0.5),
        ContactJudge(),
        TemperatureJudge(300.0),
        EnergyJudge(Springs(), 0.01),
    ]


@pytest.mark.parametrize("judge", every_judge(), ids=lambda judge: judge.name)
def test_every_judge_accepts_good_dynamics(judge, start, segment) -> None:
    assert isinstance(judge, Judge)
    verdict = judge.judge(start, segment)
    assert verdict.n_accepted.tolist() == [4, 4, 4]
    assert verdict.n_accepted.dtype == torch.int64
    assert verdict.reasons == (None, None, None)


@pytest.mark.parametrize("judge", every_judge(), ids=lambda judge: judge.name)
def test_no_judge_lets_nan_pass_or_stumbles(judge, start, segment) -> None:
    segment.positions[1, 2:] = math.nan
    segment.velocities[1, 2:] = math.nan
    verdict = judge.judge(start, segment)
    assert verdict.n_accepted.tolist() == [4, 2, 4]
    assert verdict.reasons[0] is None
    assert "nan" in verdict.reasons[1] or "not finite" in verdict.reasons[1]


def test_finite_judge_names_the_number(start, segment) -> None:
    segment.velocities[2, 1, 1, 0] = -math.inf
    segment.positions[0, 3, 2, 2] = math.nan
    verdict = FiniteJudge().judge(start, segment)
    assert verdict.n_accepted.tolist() == [3, 4, 1]
    assert verdict.reasons[0].startswith("position of H2 is [")
    assert verdict.reasons[2].startswith("velocity of H1 is [-inf, ")


def test_bond_judge_measures_and_names_the_worst_bond(start, segment) -> None:
    segment.positions[0, 1, 2] = segment.positions[0, 1, 0] + torch.tensor([0.0, 0.0, 2.31])
    segment.positions[2, 3, 1] = segment.positions[2, 3, 0] + torch.tensor([0.3, 0.0, 0.0])
    judge = BondJudge(torch.tensor([0.96, 1.09]), 0.5)
    verdict = judge.judge(start, segment)
    assert verdict.n_accepted.tolist() == [1, 4, 3]
    assert verdict.reasons[0] == (
        "bond O0-H2 is 2.31 Å, 1.22 Å from its reference 1.09 Å; allowed 0.5 Å"
    )
    assert verdict.reasons[2].startswith("bond O0-H1 is 0.30 Å, 0.66 Å from")


def test_bond_judge_around_a_geometry_and_its_errors(start, segment) -> None:
    judge = BondJudge.around(WATER, SHAPE, 0.4)
    torch.testing.assert_close(judge.reference_A[0], torch.tensor(0.96).double())
    single = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1)])
    with pytest.raises(ValueError, match="has 1 reference lengths, the molecule has 2 bonds"):
        BondJudge.around(single, SHAPE, 0.4).judge(start, segment)
    with pytest.raises(ValueError, match=r"one geometry of shape \(3, 3\) is needed"):
        BondJudge.around(WATER, SHAPE[None], 0.4)
    with pytest.raises(ValueError, match="limit_A is 0"):
        BondJudge(torch.tensor([1.0]), 0)
    with pytest.raises(ValueError, match="must be a vector of positive numbers"):
        BondJudge(torch.tensor([1.0, -1.0]), 0.5)


def test_contact_judge_looks_at_pairs_that_are_not_bonded_only(start, segment) -> None:
    # H-H sum of covalent radii: 0.62 Å. O-H at 0.55 Å is bonded and not its matter.
    for length in (0.55, 0.63, 0.61):
        segment.positions[0, :, 2] = segment.positions[0, :, 1]
        segment.positions[0, :, 2, 0] += length
        verdict = ContactJudge().judge(start, segment)
        assert verdict.n_accepted[0] == (4 if length > 0.62 else 0)
    assert verdict.reasons[0] == (
        "H1 and H2, not bonded, are 0.61 Å apart; allowed 0.62 Å and more"
    )
    assert ContactJudge(0.9).judge(start, segment).n_accepted[0] == 4
    assert ContactJudge(limit_A=0.7).judge(start, segment).n_accepted[0] == 0
    segment.positions[1, 2, 0] = segment.positions[1, 2, 1]
    assert ContactJudge().judge(start, segment).n_accepted[1] == 4


def test_contact_judge_uses_names_and_needs_the_cell_of_a_periodic_system(start, segment) -> None:
    named = Molecule.from_numbers([8, 1, 1], names=("OW", "HW1", "HW2"))
    x = segment.positions.clone()
    x[:, 0, 1] = x[:, 0, 0]
    crowded = Segment(named, segment.times_fs, x, segment.velocities, segment.made_by)
    assert ContactJudge().judge(start, crowded).reasons[0].startswith("OW and HW1, not bonded, ")
    boxed = Molecule.from_numbers([8, 1, 1], pbc=(True, True, True))
    periodic = Segment(boxed, segment.times_fs, x, segment.velocities, segment.made_by)
    with pytest.raises(ValueError, match="needs the cell"):
        ContactJudge().judge(start, periodic)
    with pytest.raises(ValueError, match="factor is -1"):
        ContactJudge(-1)


def in_a_cell(positions, numbers, side_A, bonds=()):
    """One frame of one replica in a cubic cell, as start and segment."""
    molecule = Molecule.from_numbers(numbers, bonds=bonds, pbc=(True, True, True))
    x = torch.tensor([positions], dtype=torch.float64)
    cell = side_A * torch.eye(3, dtype=torch.float64)[None]
    start = State(molecule, x, torch.zeros_like(x), 0.0, cell)
    made_by = torch.zeros((1, 1), dtype=torch.int8)
    times = torch.tensor([8.0], dtype=torch.float64)
    return start, Segment(molecule, times, x[:, None], 0 * x[:, None], made_by, cell=cell)


def test_contact_judge_sees_images_through_the_faces() -> None:
    # 0.5 Å apart through the face, and a whole cell further for unwrapped positions.
    for x in (7.7, 15.7, -8.3):
        start, segment = in_a_cell([[0.2, 1.0, 1.0], [x, 1.0, 1.0]], [1, 1], 8.0)
        verdict = ContactJudge(limit_A=0.51).judge(start, segment)
        assert verdict.n_accepted.tolist() == [0]
        assert "are 0.50 Å apart" in verdict.reasons[0]
        assert ContactJudge(limit_A=0.49).judge(start, segment).n_accepted.tolist() == [1]
    with pytest.raises(ValueError, match=r"cell is only 8\.00 Å thick"):
        ContactJudge(limit_A=4.1).judge(start, segment)


def test_contact_judge_allows_neighbours_in_a_metal() -> None:
    # Copper's nearest neighbours, 2.57 Å, are closer than two covalent radii of 1.32 Å.
    apart = 3.63 / 2**0.5
    for distance, accepted in ((apart, 1), (1.86, 1), (1.84, 0)):
        start, segment = in_a_cell([[0.0, 0, 0], [distance, 0, 0]], [29, 29], 8.0)
        assert ContactJudge().judge(start, segment).n_accepted.tolist() == [accepted]


def test_bond_judge_follows_bonds_through_the_faces() -> None:
    judge = BondJudge(torch.tensor([0.96]), 0.1)
    for x, accepted in ((7.76, 1), (-0.24, 1), (7.5, 0)):
        start, segment = in_a_cell([[0.7, 0, 0], [x, 0, 0]], [8, 1], 8.0, bonds=[(0, 1)])
        assert judge.judge(start, segment).n_accepted.tolist() == [accepted]


def test_temperature_band_has_the_false_alarm_rate_it_says() -> None:
    for f, rate in ((9, 0.1), (27, 1e-3), (3000, 1e-6)):
        low, high = temperature_band(f, rate)
        half = torch.tensor(f / 2, dtype=torch.float64)
        below = torch.special.gammainc(half, half * low)
        above = torch.special.gammaincc(half, half * high)
        assert float(below) == pytest.approx(rate / 2, rel=1e-6)
        assert float(above) == pytest.approx(rate / 2, rel=1e-6)
    # Two degrees of freedom are an exponential distribution: known in closed form.
    low, high = temperature_band(2, 0.02)
    assert low == pytest.approx(-math.log(0.99))
    assert high == pytest.approx(-math.log(0.01))


def test_temperature_judge_rejects_what_equilibrium_rarely_gives(start, segment) -> None:
    v = maxwell_boltzmann(WATER, 20_000, 300.0, torch.Generator().manual_seed(1))[:, None]
    many = Segment(
        WATER,
        torch.tensor([1.0]),
        torch.zeros_like(v),
        v,
        torch.zeros(20_000, 1, dtype=torch.int8),
    )
    rejected = 20_000 - int(TemperatureJudge(300.0, 0.01).judge(start, many).n_accepted.sum())
    assert rejected == pytest.approx(200, abs=5 * math.sqrt(200))
    hot = TemperatureJudge(300.0, 0.01).judge(start, many.frames(slice(None)))
    assert hot.reasons[int((hot.n_accepted == 0).nonzero()[0])].endswith(
        "at 300 K (9 degrees of freedom, false alarm rate 0.01 per frame)"
    )


def test_temperature_judge_catches_heating_and_freezing(start, segment) -> None:
    segment.velocities[0, 2:] *= 5.0
    segment.velocities[1, 1:] *= 0.01
    verdict = TemperatureJudge(300.0).judge(start, segment)
    assert verdict.n_accepted.tolist() == [2, 1, 4]
    assert verdict.reasons[0].startswith("kinetic temperature is ")
    for wrong in (0.0, math.inf):
        with pytest.raises(ValueError, match="temperature_K is"):
            TemperatureJudge(wrong)
    with pytest.raises(ValueError, match="false_alarm_rate is 2"):
        TemperatureJudge(300.0, 2)
    with pytest.raises(ValueError, match="degrees_of_freedom is -3"):
        TemperatureJudge(300.0, degrees_of_freedom=-3)


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


def test_a_guard_with_all_judges_repairs_a_bad_propagator(start) -> None:
    def verlet(timestep_fs):
        return VelocityVerlet(Springs(), timestep_fs, 8.0, 4)

    # Steps of 8 fs heat up; in steps of 0.25 fs the energy is kept.
    guard = GuardedPropagator(verlet(8.0), verlet(0.25), every_judge())
    state = start
    for _ in range(20):
        segment = guard.advance(state)
        state = segment.last
        assert all(event.reason for event in segment.events)
    counts = guard.statistics().rejections_by
    assert counts["energy error"] > 10
    free = VelocityVerlet(Springs(), 8.0, 8.0, 80).advance(start)
    spread = BondJudge(torch.tensor([0.96, 0.96]), 0.5).judge(start, free)
    kept = BondJudge(torch.tensor([0.96, 0.96]), 0.5).judge(start, segment)
    assert int(spread.n_accepted.min()) < 80
    assert kept.n_accepted.tolist() == [4, 4, 4]
