"""Maps that may propose are told from maps that may not."""

import pytest
import torch

from egno_md.data.structures import read_structure
from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.propagators.learned import LearnedPropagator
from egno_md.propagators.metropolised import Metropolised
from egno_md.propagators.rest_start_force import RestStartForce
from egno_md.propagators.reversible_maps import (
    WayBack,
    jacobian_by_differences,
    refuse_irreversible,
    refuse_undeclared,
    reversal_error_A,
    way_back,
)
from egno_md.propagators.thermostat import Thermostatted
from egno_md.state import maxwell_boltzmann
from egno_md.testing.propagator_checks import symplectic_error, volume_error
from tests.benchmarks.springs import Springs, start


def direct(damaged):
    """A map that shrinks velocities a little, as regression does; it says it does not."""

    def shrink(segment):
        segment.velocities.mul_(0.97)

    return damaged(VelocityVerlet(Springs(), 0.5, 4.0, 2), shrink)


def bath():
    return Langevin(Springs(), 0.5, 4.0, 2, 300.0, 5.0, torch.Generator().manual_seed(0))


def test_verlet_finds_the_way_back_and_keeps_volume():
    verlet, here = VelocityVerlet(Springs(), 1.0, 4.0, 2), start(3)
    assert reversal_error_A(verlet, here, 20) < 1e-11
    jacobian = jacobian_by_differences(verlet, here)
    assert volume_error(jacobian) < 1e-6
    assert symplectic_error(jacobian) < 1e-6
    assert float((jacobian - torch.eye(18)).abs().max()) > 0.1
    refuse_undeclared(verlet)
    refuse_irreversible(verlet, here)


def test_a_direct_map_does_neither(damaged):
    liar, here = direct(damaged), start(3)
    assert reversal_error_A(liar, here) > 1e-3
    assert volume_error(jacobian_by_differences(liar, here)) == pytest.approx(
        1.0 - 0.97**9, abs=1e-6
    )
    refuse_undeclared(liar)
    with pytest.raises(ValueError, match=r"cannot propose 8 fs: .* misses its start by"):
        refuse_irreversible(liar, here)


@pytest.mark.parametrize("length", [1, 5, 40])
@pytest.mark.parametrize("factor", [0.999, 1.001])
def test_a_little_friction_is_found_whatever_is_declared(damaged, factor, length):
    """A tenth of a per cent per segment, of one frame and of 40: 4 to 160 fs."""
    liar = damaged(
        VelocityVerlet(Springs(), 0.5, 4.0, 1), lambda segment: segment.velocities.mul_(factor)
    )
    refuse_undeclared(liar)
    missed = way_back(liar, start(3), length)
    assert 1e-3 < missed.velocities < 0.1
    with pytest.raises(ValueError, match=r"and 0.00\d+ of the velocities, where .* are allowed"):
        refuse_irreversible(liar, start(3), length)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_in_float32_pass_and_with_friction_do_not(damaged, dtype):
    here = read_structure("egno_md/examples/ethanol.xyz")
    noise = torch.Generator().manual_seed(2)
    v = maxwell_boltzmann(here.molecule, 1, 300.0, noise)
    here = here.with_(positions=here.positions.to(dtype), velocities=v.to(dtype))
    network = LearnedPropagator.from_bundle("ethanol-egno", here.molecule)
    for n_frames in (1, 12, 84):
        refuse_irreversible(network, here, n_frames)
    missed = way_back(network, here, 12)
    assert missed.within(WayBack(1e-5, 1e-4) if dtype == torch.float32 else WayBack(1e-13, 1e-13))
    liar = damaged(network, lambda segment: segment.velocities.mul_(0.999))
    with pytest.raises(ValueError, match="of the velocities"):
        refuse_irreversible(liar, here)


def test_a_map_that_says_nothing_at_rest_is_tried_in_motion(damaged):
    """At rest in a minimum nothing moves, and nothing is lost."""
    liar = damaged(VelocityVerlet(Springs(), 0.5, 4.0, 2), lambda s: s.velocities.mul_(0.999))
    still = start(1).with_(velocities=torch.zeros((1, 3, 3), dtype=torch.float64))
    assert way_back(liar, still) == WayBack(0.0, 0.0)
    noise = torch.Generator().manual_seed(0)
    sampler = Metropolised(liar, Springs(), 300.0, 5.0, noise)
    with pytest.raises(ValueError, match="cannot propose 8 fs"):
        sampler.advance(still)


def test_its_rest_start_force_does_both(damaged):
    force = RestStartForce(direct(damaged))
    assert force.span_fs == 4.0
    verlet, here = VelocityVerlet(force, 2.0, 4.0, 2), start(3)
    assert reversal_error_A(verlet, here, 10) < 1e-11
    assert volume_error(jacobian_by_differences(verlet, here)) < 1e-6


def test_the_rest_start_force_of_exact_motion_is_the_force():
    here = start(3)
    moved = here.with_(positions=here.positions + 0.05 * torch.sin(1e3 * here.positions))
    force = RestStartForce(VelocityVerlet(Springs(), 0.01, 0.1, 1))
    found, true = force.evaluate(moved), Springs().evaluate(moved).forces
    assert float(true.abs().max()) > 0.5
    torch.testing.assert_close(found.forces, true, rtol=1e-3, atol=1e-3)
    assert bool(found.energy.isnan().all())
    with pytest.raises(ValueError, match="not the slope of an energy"):
        force.energies(moved)


def test_baths_are_refused_by_what_they_declare():
    verlet = VelocityVerlet(Springs(), 0.5, 4.0, 2)
    kicked = Thermostatted(verlet, 300.0, 5.0, torch.Generator().manual_seed(0))
    for propagator in (bath(), kicked):
        with pytest.raises(
            ValueError, match="not reversible and not volume preserving, so acc"
        ) as e:
            refuse_undeclared(propagator)
        # With noise in it there is no such force.
        assert "RestStartForce" not in str(e.value)


def test_one_property_is_not_enough(damaged):
    half = direct(damaged)
    half.volume_preserving = False
    with pytest.raises(ValueError, match=r"it is not volume preserving, so .* its RestStartForce"):
        refuse_undeclared(half)


def test_trying_leaves_what_is_remembered_alone():
    verlet, here = VelocityVerlet(Springs(), 0.5, 4.0, 2), start(3)
    end = verlet.advance(here).last
    before = {name: tensor.clone() for name, tensor in verlet.restart_state().items()}
    refuse_irreversible(verlet, end)
    after = verlet.restart_state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_segment_that_fails_says_nothing(damaged):
    broken = damaged(
        VelocityVerlet(Springs(), 0.5, 4.0, 2), lambda s: s.positions.fill_(float("nan"))
    )
    refuse_irreversible(broken, start(2))
