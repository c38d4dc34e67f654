import math

import ase.units
import pytest

from egno_md import units


def test_constants_agree_with_ase_to_the_digits_of_its_older_codata_set():
    assert pytest.approx(ase.units.kB, rel=1e-6) == units.BOLTZMANN_EV_PER_K
    assert pytest.approx(ase.units.kcal / ase.units.mol, rel=1e-6) == units.KCAL_PER_MOL
    assert pytest.approx(ase.units.kJ / ase.units.mol, rel=1e-6) == units.KJ_PER_MOL
    assert pytest.approx(1.0 / ase.units.fs, rel=1e-6) == units.FS_PER_ASE_TIME


def test_boltzmann_constant_is_the_exact_joule_value_over_the_exact_charge():
    assert pytest.approx(1.380649e-23 / 1.602176634e-19, rel=1e-15) == units.BOLTZMANN_EV_PER_K


def test_kinetic_energy_factor_from_si():
    # 1 amu at 1 Å/fs is 1e5 m/s.
    joule = 1.66053906660e-27 * 1e5**2
    assert pytest.approx(joule / 1.602176634e-19, rel=1e-14) == units.EV_PER_AMU_A2_FS2


def test_acceleration_from_si():
    # 1 eV/Å on 1 amu, in m/s^2, then in Å/fs^2.
    si = 1.602176634e-19 / 1e-10 / 1.66053906660e-27
    assert pytest.approx(si * 1e10 / 1e30, rel=1e-14) == units.ACCELERATION_PER_FORCE


def test_energy_units_are_consistent():
    assert pytest.approx(4.184, rel=1e-15) == units.KCAL_PER_MOL / units.KJ_PER_MOL


def test_a_mass_on_a_spring_has_the_period_of_the_textbook():
    # omega = sqrt(k/m): integrating with our factor for one period leads back to the start.
    mass_amu, spring_eV_per_A2 = 2.0, 3.0
    omega = math.sqrt(spring_eV_per_A2 / mass_amu * units.ACCELERATION_PER_FORCE)
    n = 20_000
    dt, x, v = 2 * math.pi / omega / n, 1.0, 0.0
    for _ in range(n):
        v -= 0.5 * dt * spring_eV_per_A2 * x / mass_amu * units.ACCELERATION_PER_FORCE
        x += dt * v
        v -= 0.5 * dt * spring_eV_per_A2 * x / mass_amu * units.ACCELERATION_PER_FORCE
    assert x == pytest.approx(1.0, abs=1e-6)
    assert v == pytest.approx(0.0, abs=1e-6)


def test_lengths_and_times_lead_out_the_right_way():
    assert pytest.approx(1.0) == 10.0 * units.NM_PER_A
    assert pytest.approx(1.0) == 1000.0 * units.PS_PER_FS
