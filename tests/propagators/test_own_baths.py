"""A guard or a second bath around a propagator with a bath is refused, through wrappers too."""

import pytest
import torch

from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.propagators.frame_grid import SameFrames
from egno_md.propagators.guarded import GuardedPropagator
from egno_md.propagators.metropolised import Metropolised
from egno_md.propagators.multiple_time_step import MultipleTimeStepLangevin
from egno_md.propagators.own_baths import draws_noise, has_bath
from egno_md.propagators.parareal import Parareal
from egno_md.propagators.rest_start_force import RestStartForce
from egno_md.propagators.restart import named_under, taken_from
from egno_md.propagators.thermostat import Thermostatted
from tests.benchmarks.springs import Springs


class Wrapper(SameFrames):
    """Says nothing of baths."""

    reversible = volume_preserving = False

    def __init__(self, propagator):
        self.propagator = propagator

    def advance(self, state, n_frames=None):
        return self.propagator.advance(state, n_frames)

    def restart_state(self):
        return named_under("inside", self.propagator.restart_state())

    def restore(self, saved):
        self.propagator.restore(taken_from("inside", saved))


def noise():
    return torch.Generator().manual_seed(0)


def verlet():
    return VelocityVerlet(Springs(), 0.5, 4.0, 2)


def langevin():
    return Langevin(Springs(), 0.5, 4.0, 2, 300.0, 5.0, noise())


BATHED = {
    "metropolised": lambda: Metropolised(
        VelocityVerlet(Springs(), 0.5, 4.0, 1), Springs(), 300.0, 5.0, noise()
    ),
    "two steps": lambda: MultipleTimeStepLangevin(
        Springs(), Springs(), 0.5, 2.0, 4.0, 2, 300.0, 5.0, noise()
    ),
    "langevin": langevin,
    "thermostatted": lambda: Thermostatted(verlet(), 300.0, 5.0, noise()),
    "wrapped": lambda: Wrapper(Wrapper(langevin())),
}


@pytest.mark.parametrize("make", BATHED.values(), ids=BATHED)
def test_what_has_a_bath_is_not_guarded_nor_given_another(make):
    propagator = make()
    assert has_bath(propagator)
    name = type(propagator).__name__
    with pytest.raises(ValueError, match=f"a {name} cannot be guarded: it has a bath of its own"):
        GuardedPropagator(propagator, verlet(), [])
    with pytest.raises(ValueError, match=f"a {name} has a bath .* leave Thermostatted out"):
        Thermostatted(propagator, 300.0, 5.0, noise())
    with pytest.raises(ValueError, match=rf"trusted propagator \({name}\) draws random"):
        Parareal(verlet(), propagator)
    with pytest.raises(ValueError, match=f"a {name} has no force of a start at rest"):
        RestStartForce(propagator)


def test_a_bath_goes_around_a_guard_whatever_is_behind_it():
    plain = GuardedPropagator(verlet(), verlet(), [])
    mended = GuardedPropagator(verlet(), langevin(), [])
    for guard in (plain, mended):
        assert not has_bath(guard)
        assert has_bath(Thermostatted(guard, 300.0, 5.0, noise()))
    assert draws_noise(mended)
    with pytest.raises(ValueError, match=r"coarse propagator \(GuardedPropagator\) draws"):
        Parareal(mended, verlet())
    with pytest.raises(ValueError, match="a GuardedPropagator has no force"):
        RestStartForce(mended)


def test_a_wrapper_of_what_is_deterministic_has_none():
    assert not has_bath(Wrapper(verlet()))
    Thermostatted(GuardedPropagator(Wrapper(verlet()), verlet(), []), 300.0, 5.0, noise())
