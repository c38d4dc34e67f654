from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, SCFError, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential

from egno_md.calculators.potential_from_ase import ASEPotential
from egno_md.propagators.classical import VelocityVerlet
from egno_md.roles import Potential
from egno_md.state import Molecule, State, kinetic_energy


def replicas(atoms: Atoms, n: int, seed: int = 0) -> State:
    """Copies of some atoms, each shaken differently."""
    noise = torch.randn(
        (n, len(atoms), 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    frozen = Molecule.from_numbers(atoms.numbers.tolist(), pbc=tuple(atoms.pbc.tolist()))
    cell = torch.tensor(np.array(atoms.cell)) if atoms.pbc.any() else None
    x = torch.from_numpy(atoms.positions) + 0.05 * noise
    return State.at_rest(frozen, x, cell=cell)


def test_energies_and_forces_are_the_calculators_own() -> None:
    atoms = molecule("H2O")
    state = replicas(atoms, 3)
    potential = ASEPotential(EMT())
    assert isinstance(potential, Potential)
    result = potential.evaluate(state)
    for r in range(3):
        atoms.positions = state.positions[r].numpy()
        atoms.calc = EMT()
        assert float(result.energy[r]) == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(result.forces[r], atoms.get_forces(), atol=1e-12)
    assert result.virial is None
    torch.testing.assert_close(potential.energies(state), result.energy, rtol=0, atol=1e-12)
    assert result.energy.dtype == result.forces.dtype == torch.float64
    assert len({float(e) for e in result.energy}) == 3


@pytest.mark.parametrize(
    ("atoms", "calculator"),
    [
        (bulk("Cu", cubic=True), EMT()),
        (bulk("Ar", cubic=True, a=5.2), LennardJones(sigma=3.4, epsilon=0.01, rc=6, smooth=True)),
    ],
    ids=["EMT", "Lennard-Jones"],
)
def test_the_virial_is_minus_the_strain_derivative(atoms, calculator) -> None:
    state = replicas(atoms, 2)
    potential = ASEPotential(calculator)
    virial = potential.evaluate(state).virial
    step = 1e-4
    for a in range(3):
        for b in range(3):
            energies = []
            for sign in (1, -1):
                strain = torch.eye(3, dtype=torch.float64)
                strain[a, b] += sign * step / 2
                strain[b, a] += sign * step / 2
                strained = state.with_(positions=state.positions @ strain, cell=state.cell @ strain)
                energies.append(potential.energies(strained))
            slope = (energies[0] - energies[1]) / (2 * step)
            torch.testing.assert_close(-virial[:, a, b], slope, rtol=1e-5, atol=1e-5)


def test_the_energy_is_the_one_that_forces_derive_from() -> None:
    class Smeared(Calculator):
        implemented_properties = ("energy", "free_energy", "forces")

        def calculate(self, atoms=None, properties=None, system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            forces = np.zeros((len(atoms), 3))
            self.results = {"energy": 1.0, "free_energy": 2.0, "forces": forces}

    potential = ASEPotential(Smeared())
    assert float(potential.energies(replicas(molecule("H2"), 1))) == 2.0
    assert float(potential.evaluate(replicas(molecule("H2"), 1)).energy) == 2.0


def test_dynamics_with_a_calculator_conserves_energy() -> None:
    # The minimum of the Morse pair is at 1 Å.
    state = replicas(Atoms("H2", positions=[[0, 0, 0], [1.2, 0, 0]]), 2)
    potential = ASEPotential(MorsePotential(epsilon=1.0, r0=1.0, rho0=6.0, rcut1=8.0, rcut2=9.0))
    segment = VelocityVerlet(potential, 0.05, 1.0, 20).advance(state)
    total = segment.potential_energies + kinetic_energy(state.molecule, segment.velocities)
    start = potential.energies(state)
    assert float((segment.potential_energies - start[:, None]).abs().max()) > 0.3
    torch.testing.assert_close(total, start[:, None].expand(2, 20), rtol=0, atol=5e-4)


def test_a_calculator_that_gives_up_is_named_with_the_replica() -> None:
    class Fragile(EMT):
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            if atoms.positions[0, 0] > 50:
                raise SCFError("not converged")
            super().calculate(atoms, properties, system_changes)

    state = replicas(molecule("H2O"), 3)
    state.positions[2] += 100.0
    for ask in (ASEPotential(Fragile()).evaluate, ASEPotential(Fragile()).energies):
        with pytest.raises(ValueError, match="Fragile gives up on replica 2: not converged"):
            ask(state)
    with pytest.raises(ValueError, match=r"EMT gives up on replica 0: .*Xe"):
        ASEPotential(EMT()).evaluate(replicas(Atoms("Xe2", positions=[[0, 0, 0], [2, 0, 0]]), 1))


def test_results_that_are_not_finite_are_refused() -> None:
    class Odd(Calculator):
        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=None, system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            forces = np.zeros((len(atoms), 3))
            forces[1, 2] = np.inf if atoms.positions[0, 0] < 5 else 0.0
            energy = np.nan if atoms.positions[0, 0] > 5 else 0.0
            self.results = {"energy": energy, "forces": forces}

    state = replicas(molecule("H2"), 2)
    with pytest.raises(ValueError, match=r"force of \[0.0, 0.0, inf\] eV/Å on atom 1 of replica 0"):
        ASEPotential(Odd()).evaluate(state)
    moved = state.with_(positions=state.positions + 10)
    for ask in (ASEPotential(Odd()).evaluate, ASEPotential(Odd()).energies):
        with pytest.raises(ValueError, match="energy of nan eV for replica 0"):
            ask(moved)


def test_float32_states_get_float32_forces() -> None:
    state = replicas(molecule("H2O"), 1)
    narrow = State.at_rest(state.molecule, state.positions.float())
    assert ASEPotential(EMT()).evaluate(narrow).forces.dtype == torch.float32


def test_named_calculators_keep_one_per_replica() -> None:
    state = replicas(bulk("Cu", cubic=True), 3)
    named = ASEPotential.named("emt")
    one, other = named.evaluate(state), ASEPotential(EMT()).evaluate(state)
    torch.testing.assert_close(one.forces, other.forces, rtol=0, atol=1e-12)
    moved = state.with_(positions=state.positions + 0.3)
    again = named.evaluate(moved.replica([1]))
    torch.testing.assert_close(again.energy, named.energies(moved)[1:2], rtol=0, atol=1e-12)
    for name in ("nothing", "a/b", ""):
        with pytest.raises(ValueError, match="cannot be opened"):
            ASEPotential.named(name)
