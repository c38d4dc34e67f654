from __future__ import annotations

import math

import pytest
import torch

from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.guarded import GuardedPropagator
from egno_md.roles import Judge
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
from tests.trajectories.water_on_springs import SHAPE, WATER, Springs


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
