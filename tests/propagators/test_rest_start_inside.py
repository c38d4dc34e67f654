"""The force of a start at rest inside two time steps: the accurate potential is conserved."""

import pytest
import torch

from egno_md.data.structures import read_structure
from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.propagators.learned import LearnedPropagator
from egno_md.propagators.multiple_time_step import MultipleTimeStep
from egno_md.propagators.rest_start_force import RestStartForce
from egno_md.propagators.reversible_maps import jacobian_by_differences, reversal_error_A
from egno_md.state import State, kinetic_energy, maxwell_boltzmann
from egno_md.testing.propagator_checks import volume_error
from tests.benchmarks.springs import Springs, start


class Softer(Springs):
    """Springs of nine tenths the stiffness."""

    def evaluate(self, state):
        found = super().evaluate(state)
        return type(found)(0.9 * found.energy, 0.9 * found.forces)


def inside(span_fs=1.0, inner_fs=0.5, outer_fs=2.0):
    """The segments of a propagator with soft springs inside, springs outside."""
    segments = VelocityVerlet(Softer(), 0.5, span_fs, 3)
    return MultipleTimeStep(RestStartForce(segments), Springs(), inner_fs, outer_fs, 4.0, 2)


def spread_eV(propagator, here, n_frames):
    """Root mean square of the total energy about its mean, by the accurate potential."""
    segment = propagator.advance(here, n_frames)
    total = segment.potential_energies + kinetic_energy(segment.molecule, segment.velocities)
    slope = (total[:, -20:].mean(1) - total[:, :20].mean(1)).abs().max()
    return float(total.std(1).square().mean().sqrt()), float(slope)


def test_the_energy_of_the_accurate_potential_is_conserved():
    nested, plain = inside(), VelocityVerlet(Springs(), 2.0, 4.0, 2)
    here = start(8)
    mine, drift = spread_eV(nested, here, 60)
    # 240 fs with an accurate force every 2 fs: steadier than Verlet with that step.
    assert mine < 0.5 * spread_eV(plain, here, 60)[0]
    assert drift < mine
    counts = nested.evaluations()
    assert (counts.outer, counts.inner) == (121, 481)
    assert spread_eV(inside(outer_fs=1.0), here, 60)[0] < 0.5 * mine


def test_the_map_may_propose():
    here = start(2)
    assert reversal_error_A(inside(), here, 10) < 1e-10
    assert volume_error(jacobian_by_differences(inside(), here)) < 1e-6


def test_a_network_inside_an_escn_of_ethanol():
    ethanol = read_structure("egno_md/examples/ethanol.xyz")
    molecule, noise = ethanol.molecule, torch.Generator().manual_seed(1)
    here = State(molecule, ethanol.positions, maxwell_boltzmann(molecule, 1, 300.0, noise))
    network = LearnedPropagator.from_bundle("ethanol-egno", molecule)
    accurate = ESCNPotential.from_bundle("ethanol-escn")
    nested = MultipleTimeStep(RestStartForce(network), accurate, 0.5, 2.0, 2.0, 5)
    segment = nested.advance(here, 12)
    total = segment.potential_energies + kinetic_energy(molecule, segment.velocities)
    assert float(total.std()) / molecule.n_atoms < 1e-3
    assert (nested.evaluations().outer, nested.evaluations().inner) == (13, 49)
    # The network's force stands for 3 fs and is soft; the accurate potential is not.
    assert nested.fastest_period_fs == pytest.approx(9.25, abs=0.1)


def test_as_the_accurate_force_it_is_refused_because_it_has_no_energy():
    verlet = VelocityVerlet(Softer(), 0.5, 2.0, 1)
    with pytest.raises(ValueError, match="outer is a RestStartForce, which has no energies"):
        MultipleTimeStep(Softer(), RestStartForce(verlet), 0.5, 2.0, 4.0, 1)
