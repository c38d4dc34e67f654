"""Limits of judges: what is guaranteed holds, and a bad network cannot excuse itself."""

import math

import pytest
import torch

from egno_md.config import RunConfig
from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.roles import EnergyForces
from egno_md.state import Molecule, State, maxwell_boltzmann
from egno_md.trajectories.guard_calibration import (
    calibrate,
    check_windows,
    disagreements,
    energy_errors,
    limit_sentences,
    tolerance_limit,
    windows_needed,
    with_limits,
)

WATER = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)])
SHAPE = torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], dtype=torch.float64)
LENGTHS = [float(SHAPE[1].norm()), float(SHAPE[2].norm())]


class Springs:
    """Every coordinate on a spring to its place in water; refuses x > 50 Å."""

    def evaluate(self, state):
        return EnergyForces(self.energies(state), -20.0 * (state.positions - SHAPE))

    def energies(self, state):
        if bool((state.positions > 50.0).any()):
            raise ValueError("atoms too far away")
        return 10.0 * (state.positions.double() - SHAPE).square().sum((1, 2))


def windows(n, seed):
    """Independent starts at 300 K and the trusted frames that follow."""
    generator = torch.Generator().manual_seed(seed)
    v = maxwell_boltzmann(WATER, n, 300.0, generator)
    state = State(WATER, SHAPE.expand(n, 3, 3).clone(), v)
    state = Langevin(Springs(), 1.0, 60.0, 1, 300.0, 100.0, generator).advance(state).last
    starts = state.with_(time_fs=0.0)
    return starts, VelocityVerlet(Springs(), 0.25, 2.0, 4).advance(starts)


def coarse(timestep_fs=2.0):
    return VelocityVerlet(Springs(), timestep_fs, 2.0, 4)


def test_windows_needed_is_the_textbook_number():
    assert windows_needed(0.01) == 299
    assert windows_needed(0.05) == 59
    check_windows(299, 0.01)
    with pytest.raises(ValueError, match=r"298 windows cannot guarantee .* make at least 299"):
        check_windows(298, 0.01)
    with pytest.raises(ValueError, match="alarm_rate is 0"):
        windows_needed(0.0)


def test_the_limit_is_the_order_statistic_that_the_binomial_gives():
    values = torch.arange(1000.0)[torch.randperm(1000, generator=torch.Generator().manual_seed(1))]
    for n, rate in ((59, 0.05), (93, 0.05), (1000, 0.05), (473, 0.01)):
        sample = values.sort().values[:n]
        above = int((sample > tolerance_limit(sample, rate)).sum())

        def confidence(j, n=n, rate=rate):
            return 1.0 - sum(
                math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(j + 1)
            )

        assert confidence(above) >= 0.95 > confidence(above + 1)
    assert tolerance_limit(values[:59].clone(), 0.05) == float(values[:59].max())
    with pytest.raises(ValueError, match="NaN"):
        tolerance_limit(torch.full((59,), math.nan), 0.05)


def test_the_guarantee_holds_as_often_as_it_says():
    # Of exponential numbers the share above a limit is known: exp(-limit).
    generator = torch.Generator().manual_seed(3)
    draws = -torch.rand((2000, 120), generator=generator, dtype=torch.float64).log()
    held = sum(math.exp(-tolerance_limit(row, 0.05)) <= 0.05 for row in draws) / 2000
    expected = 1.0 - sum(math.comb(120, k) * 0.05**k * 0.95 ** (120 - k) for k in range(2))
    assert expected >= 0.95
    assert held == pytest.approx(expected, abs=5 * math.sqrt(0.05 / 2000))


def test_calibrated_judges_reject_few_good_windows():
    config = RunConfig(example="ethanol", guard_alarm_rate=0.05)
    starts, trusted = windows(200, 1)
    limits = calibrate(config, coarse(1.0), Springs(), starts, trusted, LENGTHS)
    assert 0.0 < limits.energy_eV < 0.1
    assert limits.energy_eV == limits.energy_tolerance_eV
    assert (limits.n_windows, limits.window_fs) == (200, 8.0)
    last = config.model_copy(update={"energy_frames": "last"})
    narrower = calibrate(last, coarse(1.0), Springs(), starts, trusted, LENGTHS)
    assert narrower.energy_eV < limits.energy_eV
    fresh, after = windows(400, 2)
    errors = energy_errors(coarse(1.0), Springs(), fresh, 4, every_frame=True)
    assert 0 < int((errors > limits.energy_eV).sum()) < 0.08 * 400
    lengths = (after.positions[:, :, 1:] - after.positions[:, :, :1]).norm(dim=-1)
    off = (lengths - torch.tensor(LENGTHS)).abs().flatten(1).amax(1)
    assert 0 < int((off > limits.bond_A).sum()) < 0.08 * 400
    (said,) = limit_sentences(limits.to_json())
    assert "200 windows of 8 fs" in said
    assert "at most 5.00% of good proposals (confidence 95%)" in said


def test_a_bad_network_does_not_widen_the_limit_of_the_energy():
    config = RunConfig(example="ethanol", guard_alarm_rate=0.05, energy_limit_eV=0.001)
    starts, trusted = windows(100, 1)
    limits = calibrate(config, coarse(2.0), Springs(), starts, trusted, LENGTHS)
    assert limits.energy_eV == 0.001 < limits.energy_tolerance_eV
    assert "0.001 eV, holds, and more" in limit_sentences(limits.to_json())[1]
    applied = with_limits(config, limits.to_json())
    assert applied.energy_limit_eV == 0.001
    assert (applied.bond_limit_A, applied.contact_factor) == (limits.bond_A, limits.contact_factor)
    assert with_limits(config, None) is config

    class Far:
        frame_interval_fs, n_frames = 2.0, 4

        def advance(self, state, n_frames=None):
            segment = coarse().advance(state, n_frames)
            segment.positions[:, -1] += 60.0
            return segment

    assert bool(energy_errors(Far(), Springs(), starts, 4).isinf().all())
    lost = calibrate(config, Far(), Springs(), starts, trusted, LENGTHS)
    assert (lost.energy_eV, lost.energy_tolerance_eV) == (0.001, None)
    assert "is not finite too often" in limit_sentences(lost.to_json())[1]


def test_the_limit_of_a_second_opinion_is_that_of_its_windows_and_never_wider():
    config = RunConfig(example="ethanol", guard_alarm_rate=0.05)
    starts, trusted = windows(200, 1)
    fast, other = coarse(0.25), coarse(1.0)
    limits = calibrate(config, fast, Springs(), starts, trusted, LENGTHS, [other])
    apart = disagreements(fast, [other], starts, 4)
    direct = (other.advance(starts).positions - fast.advance(starts).positions).norm(dim=-1)
    torch.testing.assert_close(apart, direct.amax((1, 2)))
    assert limits.disagreement_A == limits.disagreement_tolerance_A
    assert limits.disagreement_A == tolerance_limit(apart, 0.05) > 0.0
    assert with_limits(config, limits.to_json()).disagreement_limit_A == limits.disagreement_A
    tight = config.model_copy(update={"disagreement_limit_A": 1e-6})
    kept = calibrate(tight, fast, Springs(), starts, trusted, LENGTHS, [other])
    assert kept.disagreement_A == 1e-6 < kept.disagreement_tolerance_A
    assert "1e-06 Å, holds, and more" in limit_sentences(kept.to_json())[1]
    none = calibrate(config, fast, Springs(), starts, trusted, LENGTHS)
    assert (none.disagreement_A, none.disagreement_tolerance_A) == (None, None)
    assert with_limits(config, none.to_json()).disagreement_limit_A == 0.1


def test_judges_that_are_not_asked_for_stay_out():
    nothing = {"bond_limit_A": None, "contact_factor": None, "energy_limit_eV": None}
    config = RunConfig(example="ethanol", guard_alarm_rate=0.05, **nothing)
    starts, trusted = windows(60, 1)
    limits = calibrate(config, coarse(), Springs(), starts, trusted, LENGTHS)
    assert (limits.energy_eV, limits.bond_A, limits.contact_factor) == (None, None, None)
    with pytest.raises(ValueError, match="60 windows cannot guarantee"):
        calibrate(RunConfig(example="ethanol"), coarse(), Springs(), starts, trusted, LENGTHS)
