from __future__ import annotations

import copy
from importlib import resources

import numpy as np
import openmm
import pytest
import torch

from egno_md import openmm_force
from egno_md.bundle import load_bundle
from egno_md.calculators.shared_models import open_shared
from egno_md.data.structures import read_structure
from egno_md.models.frozen_graph import Compiling
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.units import KJ_PER_MOL, NM_PER_A
from tests.calculators.openmm_waters import (
    PLATFORMS,
    Counting,
    asked_directly,
    context_of,
    energy_forces,
    save_water_bundle,
    slope,
    system_of,
    topology,
    waters,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return save_water_bundle(tmp_path_factory.mktemp("models") / "water.bundle")


@pytest.fixture(scope="module")
def double(bundle):
    return ESCNPotential(load_bundle(bundle), dtype=torch.float64)


def forced(bundle, numbers, *more, **options):
    """A force in float64 on the CPU."""
    return openmm_force(bundle, numbers, *more, device="cpu", dtype="float64", **options)


def test_compiled_it_says_the_same_and_is_written_as_such(bundle, double):
    x, numbers = waters(2)
    energy, forces = asked_directly(double, x, numbers)
    force = forced(bundle, numbers, compile=True)
    shared = open_shared(bundle, "cpu", "float64", compile=True)
    shared.potential.compiled.compiling = Compiling(strict=True, backend="eager")
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(force))
    for one in (force, again):
        found = energy_forces(context_of(system_of(numbers, one), x, "Reference"))
        assert found[0] == pytest.approx(energy, rel=1e-9)
        np.testing.assert_allclose(found[1], forces, rtol=0, atol=1e-8)
    # Both are the compiled one, which is not the one without.
    assert shared.potential.compiled.n_compiled == 1
    assert open_shared(bundle, "cpu", "float64").potential.compiled is None


@pytest.mark.parametrize("platform", PLATFORMS)
def test_energies_and_forces_are_the_models(bundle, double, platform):
    x, numbers = waters(3)
    energy, forces = asked_directly(double, x, numbers)
    found = energy_forces(context_of(system_of(numbers, forced(bundle, numbers)), x, platform))
    assert found[0] == pytest.approx(energy, rel=1e-6)
    assert np.abs(forces).max() > 1.0
    np.testing.assert_allclose(found[1], forces, rtol=0, atol=1e-5 * np.abs(forces).max())


def test_the_packaged_potential_in_openmm_gives_the_same_on_all_platforms():
    path = str(resources.files("egno_md") / "examples" / "ethanol.xyz")
    state = read_structure(path)
    numbers = state.molecule.numbers.tolist()
    x = state.positions[0].double().numpy() * NM_PER_A
    x = x + np.random.default_rng(3).normal(0.0, 0.003, x.shape)
    found = []
    for platform in PLATFORMS:
        force = openmm_force("ethanol-escn", numbers, device="cpu")
        system = openmm.System()
        for _ in numbers:
            system.addParticle(12.0)
        system.addForce(force)
        found.append(energy_forces(context_of(system, x, platform)))
    (first, f), (second, g) = found
    assert second == pytest.approx(first, rel=1e-5)
    assert np.abs(f - g).max() < 1e-5 * np.abs(f).max()


def test_forces_are_minus_the_slope(bundle):
    x, numbers = waters(2)
    context = context_of(system_of(numbers, forced(bundle, numbers)), x)
    _, forces = energy_forces(context)
    for particle, axis in ((0, 0), (2, 1), (4, 2)):
        assert -slope(context, particle, axis) == pytest.approx(forces[particle, axis], rel=1e-5)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("picks", [True, False], ids=["OpenMM picks", "we pick"])
def test_acts_on_the_chosen_particles_alone(bundle, double, platform, picks, monkeypatch):
    if not picks:  # as before OpenMM 8.6
        monkeypatch.delattr(openmm.PythonForce, "setParticles", raising=False)
    x, numbers = waters(4)
    atoms = [6, 8, 7, 3, 4, 5]
    force = forced(bundle, numbers, atoms)
    found = energy_forces(context_of(system_of(numbers, copy.deepcopy(force)), x, platform))
    energy, mine = asked_directly(double, x[atoms], [numbers[i] for i in atoms])
    assert found[0] == pytest.approx(energy, rel=1e-6)
    np.testing.assert_allclose(found[1][atoms], mine, rtol=0, atol=1e-5 * np.abs(mine).max())
    others = sorted(set(range(12)) - set(atoms))
    assert np.abs(found[1][others]).max() == 0.0


BOXES = {"cube": 0.62, "skew": [[0.62, 0.0, 0.0], [0.2, 0.6, 0.0], [-0.1, 0.25, 0.64]]}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_sees_periodic_images(bundle, double, platform, box):
    x, numbers = waters(8)
    force = forced(bundle, topology(numbers, box))
    assert force.usesPeriodicBoundaryConditions()
    context = context_of(system_of(numbers, force, box_nm=box), x, platform)
    energy, forces = asked_directly(double, x, numbers, box)
    found = energy_forces(context)
    assert found[0] == pytest.approx(energy, rel=1e-6)
    assert abs(energy - asked_directly(double, x, numbers)[0]) > 1e-3  # images do matter
    np.testing.assert_allclose(found[1], forces, rtol=0, atol=1e-5 * np.abs(forces).max())
    moved = x.copy()
    moved[4] += np.array(box)[1] if np.ndim(box) else np.array([0.0, box, 0.0])
    context.setPositions(moved)
    assert energy_forces(context)[0] == pytest.approx(energy, rel=1e-6)


def test_the_periodic_flag_follows_what_is_known():
    assert not openmm_force(Counting(), [8]).usesPeriodicBoundaryConditions()
    assert openmm_force(Counting(), [8], periodic=True).usesPeriodicBoundaryConditions()
    boxed = topology([8], 2.0)
    assert openmm_force(Counting(), boxed, [0]).usesPeriodicBoundaryConditions()
    assert not openmm_force(Counting(), boxed, periodic=False).usesPeriodicBoundaryConditions()


def test_a_global_parameter_scales():
    potential = Counting()
    x, numbers = waters(1)
    system = system_of(numbers, openmm_force(potential, numbers, scale="lambda_ml"))
    context = context_of(system, x)
    energy, forces = energy_forces(context)
    context.setParameter("lambda_ml", 0.25)
    found = energy_forces(context)
    assert found[0] == pytest.approx(0.25 * energy, rel=1e-12)
    np.testing.assert_allclose(found[1], 0.25 * forces, rtol=1e-12)
    assert potential.calls == 1  # the model itself does not depend on it
    context.setParameter("lambda_ml", float("nan"))
    with pytest.raises(openmm.OpenMMException, match="lambda_ml is nan"):
        energy_forces(context)


def test_the_last_evaluation_is_kept():
    potential = Counting()
    x, numbers = waters(2)
    system = system_of(numbers, openmm_force(potential, numbers))
    context = context_of(system, x)
    first = energy_forces(context)
    for _ in range(3):
        again = energy_forces(context)
    assert potential.calls == 1
    assert again[0] == first[0]
    np.testing.assert_array_equal(again[1], first[1])
    context.setPositions(x + 1e-9)
    energy_forces(context)
    assert potential.calls == 2


def test_a_new_box_is_a_new_evaluation(bundle):
    x, numbers = waters(8)
    system = system_of(numbers, forced(bundle, numbers, periodic=True), box_nm=0.62)
    context = context_of(system, x)
    before = energy_forces(context)[0]
    context.setPeriodicBoxVectors(*(np.eye(3) * 0.6))
    assert abs(energy_forces(context)[0] - before) > 1e-3


def test_works_where_gradients_are_off():
    x, numbers = waters(1)
    for shelter in (torch.no_grad, torch.inference_mode):
        potential = Counting()
        context = context_of(system_of(numbers, openmm_force(potential, numbers)), x)
        with shelter():
            found = energy_forces(context)
        assert potential.gradients_on
        assert np.abs(found[1]).max() > 1.0


@pytest.mark.parametrize("kind", [openmm.MTSIntegrator, openmm.MTSLangevinIntegrator])
def test_multiple_time_steps_ask_once_per_outer_step(kind):
    potential = Counting()
    x, numbers = waters(1)
    slow = openmm_force(potential, numbers)
    slow.setForceGroup(1)
    fast = openmm.HarmonicBondForce()
    fast.addBond(0, 1, 0.096, 2e5)
    given = () if kind is openmm.MTSIntegrator else (300.0, 1.0)
    integrator = kind(*given, 0.001, [(1, 1), (0, 4)])
    context = context_of(system_of(numbers, slow, fast), x, integrator=integrator)
    integrator.step(1)
    before = potential.calls
    integrator.step(50)
    assert potential.calls - before == 50
    assert energy_forces(context, groups={0})[0] > 0.0
    assert potential.calls - before == 50


def test_forces_on_virtual_sites_go_to_their_parents():
    x, numbers = waters(1)
    system = system_of([*numbers, 0])
    system.setVirtualSite(3, openmm.TwoParticleAverageSite(0, 1, 0.3, 0.7))
    system.addForce(openmm_force(Counting(), [*numbers, 1]))  # the site stands for a hydrogen
    context = context_of(system, np.vstack((x, x[:1])))
    context.computeVirtualSites()
    _, forces = energy_forces(context)
    for particle in (0, 1, 2):
        assert -slope(context, particle, 1) == pytest.approx(forces[particle, 1], rel=1e-6)
    spring = 0.5 / (KJ_PER_MOL * NM_PER_A**2)
    assert abs(forces[1, 1] + spring * x[1, 1]) > 1.0  # more than its own


def test_particles_that_are_no_atoms_are_left_out(bundle, double):
    x, numbers = waters(2)
    with_sites = [*numbers[:3], 0, *numbers[3:], 0]
    places = np.insert(x, [3, 6], 9.0, axis=0)
    for given in (with_sites, topology(with_sites)):
        force = forced(bundle, given)
        if hasattr(force, "getParticles"):  # from OpenMM 8.6 on
            assert list(force.getParticles()) == [0, 1, 2, 4, 5, 6]
        found = energy_forces(context_of(system_of(with_sites, force), places))
        assert found[0] == pytest.approx(asked_directly(double, x, numbers)[0], rel=1e-6)


def test_the_minimiser_goes_downhill(bundle):
    x, numbers = waters(1)
    context = context_of(system_of(numbers, forced(bundle, numbers)), x)
    before = energy_forces(context)
    openmm.LocalEnergyMinimizer.minimize(context, 1.0, 20)
    after = energy_forces(context)
    assert after[0] < before[0] - 1e-3
    assert np.abs(after[1]).max() < np.abs(before[1]).max()


def test_a_barostat_changes_the_box(bundle, double):
    x, numbers = waters(8)
    system = system_of(numbers, forced(bundle, numbers, periodic=True), box_nm=0.64)
    barostat = openmm.MonteCarloBarostat(1.0, 300.0, 1)
    barostat.setRandomNumberSeed(1)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 10.0, 0.0005)
    integrator.setRandomNumberSeed(1)
    context = context_of(system, x, integrator=integrator)
    integrator.step(20)
    now = context.getState(getPositions=True, getEnergy=True)
    box = np.array(now.getPeriodicBoxVectors(asNumpy=True)._value)
    assert abs(box[0, 0] - 0.64) > 1e-4
    places = np.array(now.getPositions(asNumpy=True)._value)
    energy = asked_directly(double, places, numbers, box)[0]
    assert now.getPotentialEnergy()._value == pytest.approx(energy, rel=1e-6)


def test_dynamics_conserve_energy():
    x, numbers = waters(2)
    system = system_of(numbers, openmm_force(Counting(), numbers))
    integrator = openmm.VerletIntegrator(0.0005)
    context = context_of(system, x, integrator=integrator)
    context.setVelocitiesToTemperature(300.0, 1)
    totals, potentials = [], []
    for _ in range(20):
        integrator.step(10)
        state = context.getState(getEnergy=True)
        potentials.append(state.getPotentialEnergy()._value)
        totals.append(state.getKineticEnergy()._value + potentials[-1])
    assert np.ptp(totals) < 0.01 * np.ptp(potentials)


class Broken(Counting):
    """Gives one number that is none."""

    def __init__(self, energy, force):
        super().__init__()
        self.energy, self.force = energy, force

    def evaluate(self, state, virial=False):
        found = super().evaluate(state)
        found.energy[0] += self.energy
        found.forces[0, 1, 2] += self.force
        return found


@pytest.mark.parametrize(
    ("energy", "force", "words"),
    [
        (float("nan"), 0.0, "energy came out as nan eV"),
        (float("inf"), 0.0, "energy came out as inf eV"),
        (0.0, float("nan"), "force on atom 1 came out not finite"),
    ],
)
def test_numbers_that_are_none_are_errors(energy, force, words, caplog):
    x, numbers = waters(1)
    context = context_of(system_of(numbers, openmm_force(Broken(energy, force), numbers)), x)
    with pytest.raises(openmm.OpenMMException, match=words):
        context.getState(getForces=True)
    assert "Traceback" in caplog.text  # OpenMM drops it


def test_positions_that_are_no_numbers_are_errors(bundle):
    x, numbers = waters(1)
    context = context_of(system_of(numbers, forced(bundle, numbers)), x)
    energy_forces(context)
    x[1, 0] = float("nan")
    context.setPositions(x)
    with pytest.raises(openmm.OpenMMException, match=r"position of atom 1 .*within the 3 of this"):
        context.getState(getEnergy=True)


def test_a_system_of_another_size_is_an_error(bundle):
    x, numbers = waters(2)
    context = context_of(system_of(numbers, forced(bundle, numbers[:3])), x)
    with pytest.raises(openmm.OpenMMException, match="made for 3 particles, the System has 6"):
        context.getState(getEnergy=True)


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ([8, 1, 2], {}, "particle 2 is He .* knows only H, O"),
        ([8, 1, 119], {}, "particle 2 has atomic number 119"),
        ([8, 1, -1], {}, "particle 2 has atomic number -1"),
        ([0, 0], {}, "no atoms to act on among 2"),
        ([8, 1], {"atoms": []}, "no atoms to act on"),
        ([8, 1], {"atoms": [0, 2]}, "particles 0 to 1"),
        ([8, 1], {"atoms": [-1]}, "atoms has -1"),
        ([8, 1], {"atoms": [1, 1]}, "atoms has 1 twice"),
        ([8, 1], {"atoms": [0.5]}, "0.5, which is no whole number"),
        (["O", "H"], {}, "'O', which is no whole number"),
        ([8, 0], {"atoms": [0, 1]}, "particle 1 is no atom"),
        ([8, 1], {"backend": "cuda"}, "auto, python, python-torch, torchscript"),
        ([8, 1], {"backend": "torchscript", "compile": True}, "makes code of its own"),
        ([8, 1], {"scale": "two words"}, "name of a global parameter"),
        ([8, 1], {"dtype": "float16"}, "float32 or float64, got float16"),
        ([8, 1], {"device": "gpu7"}, "torch knows no device 'gpu7'"),
    ],
)
def test_what_does_not_fit_is_refused(bundle, given, options, words):
    with pytest.raises(ValueError, match=words):
        openmm_force(bundle, given, **options)


def test_what_is_no_potential_is_refused():
    with pytest.raises(FileNotFoundError, match="no bundle 'nothing'"):
        openmm_force("nothing", [8])
    with pytest.raises(ValueError, match="of kind 'egno'"):
        openmm_force("ethanol-egno", [8])
    with pytest.raises(ValueError, match="that is already made has its own"):
        openmm_force(Counting(), [8], dtype="float64")


def test_forces_that_are_no_gradient_are_warned_of():
    potential = Counting()
    potential.conservative = False
    with pytest.warns(UserWarning, match="not the gradient"):
        openmm_force(potential, [8])
