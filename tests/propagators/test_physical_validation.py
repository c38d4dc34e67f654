"""The thermostats of `egno-md run`, and velocity Verlet, against statistical mechanics."""

from __future__ import annotations

import pytest
import torch

from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.propagators.thermostat import Thermostatted
from egno_md.state import Molecule, State, kinetic_energy, maxwell_boltzmann
from tests.calculators.tethered_atoms import Tethers, homes
from tests.propagators.validated_energies import (
    Energies,
    HardeningSprings,
    MixedSprings,
    assert_ensemble,
    assert_kinetic,
    slowest_convergence,
)

N_ATOMS = 6
HOMES = torch.from_numpy(homes(N_ATOMS))
MOLECULE = Molecule.from_numbers([6, 1] * (N_ATOMS // 2))


def crowd(n: int, kelvin: float, seed: int = 0) -> State:
    noise = torch.Generator().manual_seed(seed)
    v = maxwell_boltzmann(MOLECULE, n, kelvin, noise)
    return State(MOLECULE, HOMES.expand(n, -1, -1).clone(), v, 0.0)


def surrogate(kelvin: float) -> Energies:
    """Segments with friction and noise between them, as `egno-md run --mode surrogate`."""
    inner = MixedSprings(HOMES)
    noise = torch.Generator().manual_seed(int(kelvin))
    bath = Thermostatted(inner, kelvin, 10.0, noise)
    state, run = crowd(40, 2 * kelvin), Energies(kelvin, N_ATOMS)
    for k in range(40):
        state = bath.advance(state).last
        if k >= 10:
            run.kinetic += kinetic_energy(MOLECULE, state.velocities).tolist()
            run.potential += inner.potential(state.positions)
    return run


def classical(kelvin: float) -> Energies:
    """Langevin dynamics, as `egno-md run --mode classical`."""
    noise = torch.Generator().manual_seed(int(kelvin))
    bath = Langevin(Tethers(), 0.5, 100.0, 2, kelvin, 60.0, noise)
    last = bath.advance(crowd(1200, 2 * kelvin)).last
    run = Energies(kelvin, N_ATOMS)
    run.kinetic = kinetic_energy(MOLECULE, last.velocities).tolist()
    run.potential = Tethers().energies(last).tolist()
    return run


@pytest.mark.parametrize("sampled", [surrogate, classical])
def test_thermostats_of_runs_are_canonical(sampled) -> None:
    cold, hot = sampled(300.0), sampled(350.0)
    for run in (cold, hot):
        assert_kinetic(run)
    assert_ensemble(cold, hot)


def test_the_checks_see_what_is_wrong() -> None:
    run = surrogate(300.0)
    run.kelvin = 310.0
    with pytest.raises(AssertionError):
        assert_kinetic(run)
    run.kelvin, run.held = 300.0, 1
    with pytest.raises(AssertionError):
        assert_kinetic(run)
    wrong = surrogate(330.0)
    wrong.kelvin = 390.0
    with pytest.raises(AssertionError):
        assert_ensemble(surrogate(300.0), wrong)


def test_velocity_verlet_converges_with_the_square_of_the_step() -> None:
    energies = {}
    for step_fs in (1.0, 0.5, 0.25):
        verlet = VelocityVerlet(HardeningSprings(HOMES), step_fs, 2.0, 200)
        segment = verlet.advance(crowd(1, 600.0))
        kinetic = kinetic_energy(MOLECULE, segment.velocities[0])
        energies[step_fs * 1e-3] = (segment.potential_energies[0] + kinetic).numpy()
    assert slowest_convergence(energies) < 0.1
