from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md import thermalize_momenta

from egno_md.bundle import BundleCard, save_bundle
from egno_md.calculators.escn_calculator import ESCNCalculator
from egno_md.calculators.potential_calculator import PotentialCalculator
from egno_md.models.escn import ESCN
from egno_md.models.escn_md import ESCNMD
from egno_md.models.frozen_graph import Compiling
from egno_md.roles import EnergyForces


@pytest.fixture(scope="module")
def model() -> ESCNMD:
    torch.manual_seed(0)
    small = {"channels": 8, "hidden_channels": 8, "radial_hidden": 16, "cutoff_A": 4.0}
    return ESCNMD([1, 8, 29], **small).double()


def crystal(seed: int = 1) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell @ np.array([[1, 0.05, 0], [0, 1, 0.02], [0, 0, 1.03]]), True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def counted(calculator: PotentialCalculator, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the evaluations that happen from now on."""
    calls: list[str] = []
    for name in ("evaluate", "atom_energies"):
        inner = getattr(calculator.potential, name)

        def call(*args, inner=inner, name=name, **options):
            calls.append(name)
            return inner(*args, **options)

        monkeypatch.setattr(calculator.potential, name, call)
    return calls


@pytest.mark.parametrize("pbc", [True, (True, True, False)])
def test_forces_and_stress_are_slopes_of_the_energy(model, pbc) -> None:
    atoms = crystal() if pbc is True else fcc111("Cu", (1, 2, 2), vacuum=3.0)
    atoms.set_pbc(pbc)
    atoms.rattle(0.05, seed=3)
    atoms.calc = ESCNCalculator(model)
    forces, stress = atoms.get_forces(), atoms.get_stress()
    assert np.abs(forces).max() > 1e-3
    assert np.abs(stress).max() > 1e-5
    numerical = calculate_numerical_forces(atoms, eps=1e-3)
    np.testing.assert_allclose(forces, numerical, rtol=0, atol=1e-6)
    numerical = calculate_numerical_stress(atoms, eps=1e-4)
    np.testing.assert_allclose(stress, numerical, rtol=1e-5, atol=1e-8)


def test_stress_is_the_slope_of_an_equation_of_state(model) -> None:
    atoms = crystal()
    atoms.calc = ESCNCalculator(model)
    pressure = -atoms.get_stress()[:3].sum() / 3
    cell, volumes, energies = atoms.cell.copy(), [], []
    for scale in (0.9995, 1.0005):
        atoms.set_cell(cell * scale, scale_atoms=True)
        volumes.append(atoms.get_volume())
        energies.append(atoms.get_potential_energy())
    slope = (energies[1] - energies[0]) / (volumes[1] - volumes[0])
    assert pressure == pytest.approx(-slope, rel=1e-4)


def test_energies(model) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.calc = ESCNCalculator(model)
    energies, energy = atoms.get_potential_energies(), atoms.get_potential_energy()
    assert energies.sum() == pytest.approx(energy, abs=1e-8)
    np.testing.assert_allclose(energies, energies[0], rtol=1e-8)
    assert atoms.get_potential_energy(force_consistent=True) == energy
    atoms.rattle(0.1, seed=1)
    apart = atoms.get_potential_energies()
    assert len(set(np.round(apart, 8))) == len(atoms)
    assert apart.sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    atoms.get_forces()
    np.testing.assert_allclose(atoms.get_potential_energies(), apart, rtol=0, atol=1e-12)


def test_only_what_is_asked_for_is_computed_and_kept(model, monkeypatch) -> None:
    atoms = crystal()
    atoms.calc = ESCNCalculator(model)
    calls = counted(atoms.calc, monkeypatch)
    atoms.get_potential_energy()
    atoms.get_potential_energies()
    assert calls == ["atom_energies"]
    atoms.get_forces()
    atoms.get_stress()
    atoms.get_potential_energy(force_consistent=True)
    assert calls == ["atom_energies", "evaluate"]
    # Neither momenta nor masses change what a potential says.
    thermalize_momenta(atoms, 300.0, rng=np.random.default_rng(1))
    atoms.set_masses([60.0] * len(atoms))
    atoms.get_forces()
    assert len(calls) == 2
    atoms.positions[0, 0] += 1e-6
    atoms.get_forces()
    atoms.set_cell(atoms.cell * 1.001)
    atoms.get_forces()
    atoms.numbers[0] = 8
    atoms.get_forces()
    atoms.set_pbc(False)
    atoms.get_forces()
    assert calls[2:] == ["evaluate"] * 4


def test_results_do_not_depend_on_what_was_computed_before(model) -> None:
    calculator, water = ESCNCalculator(model), molecule("H2O")
    for atoms in (crystal(), water, crystal(4), water):
        atoms.calc = calculator
        forces = atoms.get_forces()
        atoms.calc = ESCNCalculator(model, skin_A=None)
        np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=1e-12)


def test_neighbours_are_reused_while_atoms_move_little(model) -> None:
    atoms = crystal()
    atoms.calc = ESCNCalculator(model, skin_A=0.5)
    for seed in range(4):
        atoms.rattle(0.01, seed=seed)
        atoms.get_forces()
    assert atoms.calc.potential.neighbours.n_searches == 1
    atoms.positions[0] += 0.3
    atoms.get_forces()
    assert atoms.calc.potential.neighbours.n_searches == 2


def broken(**changes) -> Atoms:
    atoms = crystal()
    for name, value in changes.items():
        if name in ("info", "arrays"):
            getattr(atoms, name).update(value)
        elif name == "x":
            atoms.positions[1, 2] = value
        else:
            setattr(atoms, name, value)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (broken(info={"charge": 1}), "total charge of 1"),
        (broken(info={"spin": 3}), "spin multiplicity of 3"),
        (broken(arrays={"initial_charges": np.array([1.0, 0, 0, 0])}), "total charge of 1"),
        (broken(arrays={"initial_magmoms": np.array([2.0, 0, 0, 0])}), "magnetic moments up to 2"),
        (broken(numbers=[29, 29, 79, 29]), r"atom 2 is Au \(Z = 79\).*knows only H, O, Cu"),
        (broken(numbers=[29, 0, 29, 29]), "atom 1 has the unknown element 'X'"),
        (broken(x=np.nan), r"position of atom 1 \(replica 0, z\) is nan"),
        (broken(x=np.inf), r"position of atom 1 \(replica 0, z\) is inf"),
        (broken(cell=np.zeros((3, 3))), "cell vector a is zero"),
        (broken(cell=[[4, 0, 0], [8, 0, 0], [0, 0, 4]]), "span no volume"),
        (broken(cell=np.diag([4, np.nan, 4])), "cell has a number that is not finite"),
        (broken(cell=np.diag([4, 4, 0.1])), "cell vector c is 0.1 Å long"),
        (broken(cell=np.diag([4, 4, 0.4])), "0.4 Å thick along its periodic vector c"),
        (Atoms("Cu2", positions=[[0, 0, 0]] * 2), "atoms 0 and 1 .* are 0 Å apart"),
        (Atoms(), "holds no atoms"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_computed_is_refused_by_name(model, atoms, message) -> None:
    atoms.calc = ESCNCalculator(model)
    for ask in (atoms.get_potential_energy, atoms.get_forces):
        with pytest.raises(ValueError, match=message):
            ask()
    assert atoms.calc.results == {}


def test_a_charge_given_later_is_refused_too(model) -> None:
    atoms = crystal()
    atoms.calc = ESCNCalculator(model)
    atoms.get_forces()
    atoms.info["charge"] = -1
    with pytest.raises(ValueError, match="total charge of -1"):
        atoms.get_forces()
    del atoms.info["charge"]
    assert np.isfinite(atoms.get_forces()).all()


def test_options_are_checked(model) -> None:
    for options, message in (
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"device": "cuda:99"}, "'cuda:99' is not there"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"n_threads": 0}, "n_threads is 0"),
        ({"skin_A": -1.0}, "skin_A is -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            ESCNCalculator(model, **options)
    with pytest.raises(ValueError, match="setting 'charge'"):
        ESCNCalculator(model).set(charge=1)
    where = ESCNCalculator(model, device="auto").potential.device.type
    assert where == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(FileNotFoundError, match="no-such"):
        ESCNCalculator("no-such")
    with pytest.raises(ValueError, match="egno"):
        ESCNCalculator("ethanol-egno")


def test_threads_are_set_while_it_computes_and_put_back(model, monkeypatch) -> None:
    atoms, seen = crystal(), []
    atoms.calc = ESCNCalculator(model, n_threads=2)

    def evaluate(state, virial=False):
        seen.append(torch.get_num_threads())
        return EnergyForces(torch.zeros(1), torch.zeros_like(state.positions))

    monkeypatch.setattr(atoms.calc.potential, "evaluate", evaluate)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        atoms.get_forces()
        assert seen == [2]
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_narrow_and_wide_numbers_agree(model) -> None:
    found = []
    for dtype in ("float32", "float64"):
        atoms = crystal()
        atoms.calc = ESCNCalculator(model, dtype=dtype)
        found.append(atoms.get_forces())
        assert found[-1].dtype == np.float64
    assert not np.array_equal(*found)
    np.testing.assert_allclose(*found, rtol=0, atol=1e-5)


def test_forces_that_are_no_slope_have_no_stress_and_no_free_energy(tmp_path) -> None:
    torch.manual_seed(0)
    few = {"n_layers": 1, "channels": 4, "hidden_channels": 4, "edge_channels": 4, "n_elements": 30}
    published = ESCN(max_degree=1, max_order=1, n_gaussians=8, cutoff_A=3.0, **few)
    known = {"kind": "escn", "elements": list(published.elements), "cutoff_A": 3.0}
    card = BundleCard(
        name="small", architecture=published.architecture(), training={}, held_out={}, **known
    )
    atoms = crystal()
    path = save_bundle(tmp_path / "small.bundle", card, published.state_dict())
    with pytest.raises(ValueError, match="direct forces; compile is for"):
        ESCNCalculator(path, compile=True)
    atoms.calc = ESCNCalculator(path)
    assert set(atoms.calc.implemented_properties) == {"energy", "forces"}
    assert atoms.get_forces().shape == (4, 3)
    assert np.isfinite(atoms.get_potential_energy())
    for ask in (atoms.get_stress, atoms.get_potential_energies):
        with pytest.raises(PropertyNotImplementedError):
            ask()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_potential_energy(force_consistent=True)


def test_a_molecule_without_a_cell_has_no_stress(model) -> None:
    atoms = molecule("H2O")
    atoms.calc = ESCNCalculator(model)
    with pytest.raises((PropertyNotImplementedError, ValueError)):
        atoms.get_stress()
    assert "stress" not in atoms.calc.results


def test_copies_and_pickles_say_the_same(model) -> None:
    atoms = crystal()
    first = ESCNCalculator(model)
    forces = first.get_forces(atoms)
    for other in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        other.reset()
        np.testing.assert_array_equal(other.get_forces(atoms), forces)


def test_compiled_it_says_the_same_and_so_do_copies(model) -> None:
    atoms = crystal()
    plain, compiled = ESCNCalculator(model), ESCNCalculator(model, compile=True)
    assert compiled.parameters["compile"] is True
    compiled.potential.compiled.compiling = Compiling(strict=True, backend="eager")
    for other in (compiled, copy.deepcopy(compiled)):
        assert other.potential.compiled.n_compiled == 0
        np.testing.assert_allclose(other.get_forces(atoms), plain.get_forces(atoms), atol=1e-5)
        np.testing.assert_allclose(other.get_stress(atoms), plain.get_stress(atoms), atol=1e-6)
        assert other.potential.compiled.n_compiled == 1
