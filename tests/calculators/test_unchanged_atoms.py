import numpy as np
import pytest
from ase import Atoms

from egno_md.calculators.potential_calculator import PotentialCalculator
from egno_md.calculators.unchanged_atoms import surely_unchanged
from tests.calculators.tethered_atoms import Tethers, some_atoms


def nudged(atoms):
    atoms.positions[1, 2] = np.nextafter(atoms.positions[1, 2], 9.0)


CHANGES = {
    "positions": nudged,
    "numbers": lambda atoms: atoms.set_atomic_numbers([6, 6, 6]),
    "cell": lambda atoms: atoms.set_cell([9.0, 9.0, 9.0]),
    "pbc": lambda atoms: atoms.set_pbc([True, False, False]),
    "charges": lambda atoms: atoms.set_initial_charges([0.0, 0.1, -0.1]),
    "moments": lambda atoms: atoms.set_initial_magnetic_moments([0.0, 0.0, 0.0]),
    "atoms": lambda atoms: atoms.append("H"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(change):
    atoms = some_atoms()
    seen = atoms.copy()
    assert surely_unchanged(seen, atoms)
    CHANGES[change](atoms)
    assert not surely_unchanged(seen, atoms)


def test_momenta_and_names_do_not_matter():
    atoms = some_atoms()
    seen = atoms.copy()
    atoms.set_momenta(np.ones((3, 3)))
    atoms.info["name"] = "other"
    assert surely_unchanged(seen, atoms)
    assert not surely_unchanged(None, atoms)


def test_the_calculator_asks_again_only_where_something_changed():
    atoms = some_atoms()
    tethers = Tethers()
    atoms.calc = PotentialCalculator(tethers)
    before = atoms.get_forces()
    atoms.get_forces()
    assert tethers.calls == 1
    atoms.positions[0, 0] += 0.1
    assert not np.array_equal(atoms.get_forces(), before)
    assert tethers.calls == 2
    assert isinstance(atoms.calc.atoms, Atoms)
