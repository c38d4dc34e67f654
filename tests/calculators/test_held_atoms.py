"""Constraints under the driver of segments, and the freedom that is left."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.constraints import FixAtoms, FixBondLength, FixCom, Hookean
from ase.md.velocitydistribution import Stationary, ZeroRotation

from tests.calculators.tethered_atoms import BATHS, Oscillators, driver, exact, some_atoms


@pytest.mark.parametrize("bath", BATHS)
def test_fixed_atoms_stay_and_the_others_feel_them(bath) -> None:
    atoms = some_atoms(4)
    atoms.set_constraint(FixAtoms([1, -1]))
    free = some_atoms(4)
    dyn = driver(atoms, **bath)
    dyn.run(12)
    np.testing.assert_array_equal(atoms.positions[[1, 3]], free.positions[[1, 3]])
    assert not atoms.get_momenta()[[1, 3]].any()
    assert dyn.degrees_of_freedom == 6
    if not bath:
        x, v = exact(free, 24.0)
        np.testing.assert_allclose(atoms.positions[[0, 2]], x[[0, 2]], rtol=0, atol=1e-13)
        np.testing.assert_allclose(atoms.get_velocities()[[0, 2]], v[[0, 2]], rtol=1e-10)


def test_the_centre_of_mass_stays_under_any_bath() -> None:
    atoms = some_atoms(4)
    atoms.set_constraint(FixCom())
    Stationary(atoms)
    centre = atoms.get_center_of_mass()
    dyn = driver(atoms, Oscillators(springs=False), temperature_K=300.0)
    dyn.run(20)
    np.testing.assert_allclose(atoms.get_center_of_mass(), centre, rtol=0, atol=1e-12)
    np.testing.assert_allclose(atoms.get_momenta().sum(0), 0.0, atol=1e-12)
    assert dyn.degrees_of_freedom == 9


def test_constraints_that_segments_cannot_keep_are_refused_by_name() -> None:
    for constraint, message in (
        (FixBondLength(0, 1), "cannot keep the constraint FixBondLength"),
        (Hookean(0, 1, 1.0, 5.0), "cannot keep the constraint Hookean"),
        (FixAtoms([0, 1, 2]), "holds every atom"),
        ([FixAtoms([0]), FixCom()], "exclude each other"),
    ):
        atoms = some_atoms()
        atoms.set_constraint(constraint)
        with pytest.raises(ValueError, match=message):
            driver(atoms)


def test_a_propagator_that_moves_held_atoms_is_refused() -> None:
    class Pushing(Oscillators):
        def moved(self, state, t):
            x, v = super().moved(state, t)
            return x + 0.01 * t, v

    atoms = some_atoms()
    atoms.set_constraint(FixAtoms([2]))
    with pytest.raises(ValueError, match=r"moves atom 2, which FixAtoms holds, by 0\.173 Å"):
        driver(atoms, Pushing()).run(1)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 12 - 6),
        ({"temperature_K": 300.0, "thermostat": "bussi"}, 12 - 6),
        ({"temperature_K": 300.0}, 12),
        ({"temperature_K": 300.0, "thermostat": "andersen"}, 12),
    ],
)
def test_degrees_of_freedom(options, count) -> None:
    still = some_atoms(4)
    Stationary(still)
    ZeroRotation(still)
    assert driver(still.copy(), **options).degrees_of_freedom == count
    turning = some_atoms(4)
    Stationary(turning)
    less = 3 if count < 12 else 0
    assert driver(turning, **options).degrees_of_freedom == 12 - less
    assert driver(some_atoms(4), **options).degrees_of_freedom == 12
    boxed = still.copy()
    boxed.set_cell([20, 20, 20])
    boxed.set_pbc(True)
    assert driver(boxed, **options).degrees_of_freedom == 12 - less
    dyn = driver(still, **options)
    kinetic = still.get_kinetic_energy()
    expected = 2 * kinetic / (count * units.kB)
    assert dyn.temperature_K == pytest.approx(expected, rel=1e-6)
