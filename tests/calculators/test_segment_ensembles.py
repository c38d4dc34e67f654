"""Long runs of the driver against the distributions that are known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixAtoms, FixCom
from ase.md import thermalize_momenta
from ase.md.velocitydistribution import Stationary
from scipy import stats

from egno_md.calculators.segment_dynamics import SegmentDynamics
from tests.calculators.tethered_atoms import STIFFNESS, Oscillators, homes, some_atoms

KELVIN, N_ATOMS = 300.0, 12
KT = units.kB * KELVIN

#: In this time springs of both masses turn by a quarter more than whole half turns, about, so
#: that less than a tenth of their energies is kept where it was.
SPAN_FS = 525.0


def sampled(
    atoms: Atoms, thermostat: str, springs: bool, n_segments: int
) -> tuple[SegmentDynamics, np.ndarray, np.ndarray]:
    """Kinetic energies and energies of the springs after every segment, in units of kT."""
    # At 10/ps all but exp(-5) of the velocities is forgotten.
    dyn = SegmentDynamics(
        atoms,
        Oscillators(1, SPAN_FS, springs),
        temperature_K=KELVIN,
        thermostat=thermostat,
        bonds=[],
        seed=5,
    )
    kinetic, potential = [], []

    def note() -> None:
        kinetic.append(atoms.get_kinetic_energy() / KT)
        away = atoms.positions - homes(len(atoms))
        potential.append(0.5 * STIFFNESS * (away**2).sum() / KT)

    dyn.run(20)
    dyn.attach(note)
    dyn.run(n_segments)
    return dyn, np.array(kinetic), np.array(potential)


def assert_canonical(energies: np.ndarray, freedom: int) -> None:
    """Mean and width within three standard errors, and the whole curve."""
    n, expected = len(energies), freedom / 2
    assert energies.mean() == pytest.approx(expected, abs=3 * math.sqrt(expected / n))
    # The fourth moment of a gamma distribution gives the error of the variance.
    error = expected * math.sqrt((2 + 6 / expected) / n)
    assert energies.var() == pytest.approx(expected, abs=3 * error)
    assert stats.kstest(energies, stats.gamma(expected).cdf).pvalue > 0.01


@pytest.mark.parametrize("thermostat", ["langevin", "andersen"])
@pytest.mark.parametrize("fixed", [0, 3])
def test_tethered_atoms_are_canonical_in_speeds_and_places(thermostat, fixed) -> None:
    atoms = some_atoms(N_ATOMS)
    atoms.positions[:fixed] = homes(N_ATOMS)[:fixed]
    if fixed:
        atoms.set_constraint(FixAtoms(range(fixed)))
    dyn, kinetic, potential = sampled(atoms, thermostat, True, 600)
    assert dyn.degrees_of_freedom == 3 * (N_ATOMS - fixed)
    assert_canonical(kinetic, 3 * (N_ATOMS - fixed))
    assert_canonical(potential, 3 * (N_ATOMS - fixed))


@pytest.mark.parametrize(
    ("thermostat", "constraint", "freedom"),
    [
        ("bussi", None, 3 * N_ATOMS - 3),
        ("bussi", FixAtoms([0, 1]), 3 * N_ATOMS - 6),
        ("langevin", FixCom(), 3 * N_ATOMS - 3),
        ("andersen", FixCom(), 3 * N_ATOMS - 3),
        ("langevin", None, 3 * N_ATOMS),
        ("andersen", None, 3 * N_ATOMS),
    ],
)
def test_speeds_of_free_atoms_have_the_right_freedom(thermostat, constraint, freedom) -> None:
    atoms = some_atoms(N_ATOMS)
    thermalize_momenta(atoms, KELVIN, rng=np.random.default_rng(1))
    Stationary(atoms)
    # In a box the angular momentum of a gas is not conserved, and is not counted.
    atoms.set_cell([60, 60, 60])
    atoms.set_pbc(True)
    atoms.set_constraint(constraint)
    dyn, kinetic, _ = sampled(atoms, thermostat, False, 500)
    assert dyn.degrees_of_freedom == freedom
    assert_canonical(kinetic, freedom)
    if constraint is None and thermostat == "bussi":
        np.testing.assert_allclose(atoms.get_momenta().sum(0), 0.0, atol=1e-8)


def test_two_temperatures_differ_as_they_should() -> None:
    # ln p(U; T1)/p(U; T2) is a line in U with the slope 1/kT2 - 1/kT1.
    energies = {}
    for kelvin in (300.0, 400.0):
        atoms = some_atoms(4)
        dyn = SegmentDynamics(
            atoms, Oscillators(1, SPAN_FS), temperature_K=kelvin, bonds=[], seed=3
        )
        found: list[float] = []
        dyn.run(20)
        dyn.attach(lambda a=atoms, f=found: f.append(((a.positions - homes(4)) ** 2).sum()))
        dyn.run(800)
        energies[kelvin] = 0.5 * STIFFNESS * np.array(found)
    cold, hot = energies[300.0], energies[400.0]
    # Maximum likelihood of the slope by Bennett's equation, offset and slope free.
    slope, offset = 0.0, 0.0
    x = np.concatenate([cold, hot])
    y = np.concatenate([np.zeros(len(cold)), np.ones(len(hot))])
    for _ in range(30):
        p = 1 / (1 + np.exp(-(offset + slope * x)))
        design = np.stack([np.ones_like(x), x], 1)
        hessian = (design * (p * (1 - p))[:, None]).T @ design
        offset, slope = np.array([offset, slope]) + np.linalg.solve(hessian, design.T @ (y - p))
    error = math.sqrt(np.linalg.inv(hessian)[1, 1])
    expected = 1 / (units.kB * 300.0) - 1 / (units.kB * 400.0)
    assert slope == pytest.approx(expected, abs=3 * error)
    assert error < 0.2 * expected
