"""Conservation of energy, on springs and on forces with friction."""

import pytest
import torch

from egno_md.roles import EnergyForces
from egno_md.state import temperature_K
from egno_md.testing.dynamics_checks import energy_conservation, fluctuation_order, thermal
from tests.benchmarks.springs import Springs, start


class Pumping(Springs):
    """Springs with forces that are no gradient: energy is gained around a loop."""

    def evaluate(self, state):
        found = super().evaluate(state)
        push = torch.zeros_like(found.forces)
        push[:, 0, 0], push[:, 0, 1] = -state.positions[:, 0, 1], state.positions[:, 0, 0]
        return EnergyForces(found.energy, found.forces + 0.5 * push)


def test_springs_keep_their_energy():
    state = thermal(start(1), 4, 300.0)
    fine = energy_conservation(Springs(), state, timestep_fs=0.1, length_ps=0.2)
    coarse = energy_conservation(Springs(), state, timestep_fs=0.2, length_ps=0.2)
    assert abs(fine.drift) < 0.05
    assert fluctuation_order(coarse, fine) == pytest.approx(2.0, abs=0.1)


def test_a_force_that_is_no_gradient_heats_or_cools():
    state = thermal(start(1), 4, 300.0)
    sound = energy_conservation(Springs(), state, timestep_fs=0.2, length_ps=0.2)
    found = energy_conservation(Pumping(), state, timestep_fs=0.2, length_ps=0.2)
    assert abs(found.drift) > 100 * abs(sound.drift)


def test_thermal_copies():
    state = thermal(start(2), 500, 300.0)
    assert state.n_replicas == 500
    assert float((state.positions - state.positions[0]).abs().max()) == 0.0
    mean = float(temperature_K(state.molecule, state.velocities).mean())
    assert mean == pytest.approx(300.0, rel=0.05)


def test_too_little_is_refused():
    with pytest.raises(ValueError, match="two or more replicas"):
        energy_conservation(Springs(), start(1), timestep_fs=0.2, length_ps=0.2)
    with pytest.raises(ValueError, match="three or more frames"):
        energy_conservation(Springs(), start(2), timestep_fs=0.2, length_ps=0.001)
