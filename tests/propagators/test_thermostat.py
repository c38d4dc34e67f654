from __future__ import annotations

import math

import pytest
import torch

from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.thermostat import Thermostatted
from egno_md.roles import Propagator
from egno_md.state import Molecule, State, temperature_K
from egno_md.units import BOLTZMANN_EV_PER_K, EV_PER_AMU_A2_FS2


class Still:
    """A propagator under which velocities do not change."""

    def __init__(self, harmonic):
        self.verlet = VelocityVerlet(harmonic(0.0), 1.0, 4.0, 5)

    def __getattr__(self, name):
        return getattr(self.verlet, name)


def bath(inner, seed=0, temperature_K=300.0, friction_per_ps=20.0):
    generator = torch.Generator().manual_seed(seed)
    return Thermostatted(inner, temperature_K, friction_per_ps, generator)


def crowd_at(velocity, n=4000):
    x = torch.zeros((n, 2, 3), dtype=torch.float64)
    return State(Molecule.from_numbers([6, 1]), x, torch.full_like(x, velocity))


@pytest.mark.parametrize(("n_frames", "span_fs"), [(None, 20.0), (2, 8.0)])
def test_the_kick_has_the_exact_mean_and_variance_for_its_span(harmonic, n_frames, span_fs) -> None:
    start = crowd_at(0.02)
    v = bath(Still(harmonic)).advance(start, n_frames).velocities[:, 0]
    decay = math.exp(-20.0 * 1e-3 * span_fs)
    for atom, mass in enumerate(start.molecule.masses.tolist()):
        variance = (1 - decay**2) * BOLTZMANN_EV_PER_K * 300.0 / (mass * EV_PER_AMU_A2_FS2)
        drawn = v[:, atom].flatten()
        n = len(drawn)
        assert float(drawn.mean()) == pytest.approx(0.02 * decay, abs=5 * math.sqrt(variance / n))
        assert float(drawn.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / n))


def test_many_short_segments_reach_the_temperature(harmonic) -> None:
    thermostat = bath(Still(harmonic))
    state = crowd_at(0.0, 1000)
    for _ in range(20):
        state = thermostat.advance(state).last
    kelvin = float(temperature_K(state.molecule, state.velocities).mean())
    assert kelvin == pytest.approx(300.0, rel=5 * math.sqrt(2 / 6000))


def test_no_friction_leaves_the_segment_alone(harmonic, crowd, assert_same) -> None:
    inner = VelocityVerlet(harmonic(), 0.5, 1.0, 4)
    expected = VelocityVerlet(harmonic(), 0.5, 1.0, 4).advance(crowd)
    assert_same(bath(inner, friction_per_ps=0.0).advance(crowd), expected)


def test_it_is_a_propagator_with_the_inner_grid(harmonic) -> None:
    thermostat = bath(Still(harmonic))
    assert isinstance(thermostat, Propagator)
    assert (thermostat.frame_interval_fs, thermostat.n_frames) == (4.0, 5)
    assert not thermostat.reversible
    assert not thermostat.volume_preserving


def test_a_restarted_run_is_the_uninterrupted_one_bit_for_bit(harmonic, crowd, assert_same) -> None:
    def make():
        return bath(VelocityVerlet(harmonic(), 0.5, 1.0, 4), seed=7)

    going = make()
    middle = going.advance(crowd).last
    saved = {name: tensor.clone() for name, tensor in going.restart_state().items()}
    expected = going.advance(middle)
    fresh = make()
    fresh.restore(saved)
    assert "propagator.forces" in saved
    assert_same(fresh.advance(middle), expected)


def test_wrong_numbers_are_refused(harmonic, crowd) -> None:
    with pytest.raises(ValueError, match="temperature_K is nan"):
        bath(Still(harmonic), temperature_K=math.nan)
    with pytest.raises(ValueError, match=r"friction_per_ps is -0.1"):
        bath(Still(harmonic), friction_per_ps=-0.1)
    with pytest.raises(ValueError, match="ask for at least one frame"):
        bath(Still(harmonic)).advance(crowd, -2)
    with pytest.raises(ValueError, match=r"generator is None; noise needs one, such as torch"):
        Thermostatted(Still(harmonic), 300.0, 1.0, None)
    with pytest.raises(ValueError, match="propagator is the name 'ethanol-egno', which is no pro"):
        Thermostatted("ethanol-egno", 300.0, 1.0, torch.Generator())
