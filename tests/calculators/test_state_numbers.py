"""Bare numbers out of OpenMM's states are those of its public methods."""

import numpy as np
import openmm
import pytest

from egno_md.calculators import state_numbers
from egno_md.calculators.state_numbers import box_nm, positions_nm, velocities_nm_per_ps

VECTORS = [(1.0, 0.0, 0.0), (0.2, 1.1, 0.0), (0.3, -0.1, 1.2)]


@pytest.fixture
def state():
    system = openmm.System()
    for _ in range(3):
        system.addParticle(1.0)
    system.setDefaultPeriodicBoxVectors(*VECTORS)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    draw = np.random.default_rng(0)
    context.setPositions(draw.normal(size=(3, 3)))
    context.setVelocities(draw.normal(size=(3, 3)))
    return context.getState(positions=True, velocities=True)


class Public:
    """A state of which only the public methods are known."""

    def __init__(self, state):
        self.getPositions, self.getVelocities = state.getPositions, state.getVelocities
        self.getPeriodicBoxVectors = state.getPeriodicBoxVectors


def test_they_are_the_same_numbers(state):
    for given in (state, Public(state)):
        x, v = positions_nm(given), velocities_nm_per_ps(given)
        np.testing.assert_array_equal(x, state.getPositions(asNumpy=True)._value)
        np.testing.assert_array_equal(v, state.getVelocities(asNumpy=True)._value)
        assert [tuple(row) for row in box_nm(given)] == VECTORS
        kept = x.copy()
        x[:] = 0.0  # an array of its own
        np.testing.assert_array_equal(positions_nm(given), kept)


def test_openmm_without_the_quick_way(state, monkeypatch):
    quick = box_nm(state)
    monkeypatch.setattr(state_numbers, "_BOX_OF", None)
    assert box_nm(state) == quick
    assert isinstance(quick[0][1], float)


def test_what_was_not_asked_for_is_an_error(state):
    system = openmm.System()
    system.addParticle(1.0)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions([[0.0, 0.0, 0.0]])
    empty = context.getState(energy=True)
    with pytest.raises(openmm.OpenMMException, match="positions"):
        positions_nm(empty)
