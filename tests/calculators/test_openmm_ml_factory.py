"""`escn` in openmm-ml: whole systems, mixed systems, and that openmm-ml survives our plug-in."""

from __future__ import annotations

import copy
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from openmm import unit

from egno_md.bundle import load_bundle
from egno_md.calculators.openmm_ml_factory import ESCNPotentialFactory
from egno_md.calculators.shared_models import open_shared
from egno_md.models.frozen_graph import Compiling
from egno_md.propagators.escn_potential import ESCNPotential
from tests.calculators.openmm_waters import (
    PLATFORMS,
    asked_directly,
    context_of,
    energy_forces,
    save_water_bundle,
    slope,
    topology,
    waters,
)

ROOT = Path(__file__).resolve().parents[2]
GROUP = "openmmml.potentials"


def test_the_entry_point_names_the_factory():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"][GROUP]["escn"].partition(":")
    assert f"{module}:{name}" == f"{ESCNPotentialFactory.__module__}:{name}"
    assert ESCNPotentialFactory.__name__ == name


def test_the_module_imports_nothing_heavy():
    code = (
        "import sys\nfrom egno_md.calculators.openmm_ml_factory import ESCNPotentialFactory\n"
        "ESCNPotentialFactory()\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "egno_md" in loaded
    assert {"torch", "openmm", "openmmml", "numpy"}.isdisjoint(loaded)


@pytest.fixture(scope="module")
def openmmml():
    """openmm-ml, with `escn` also where this checkout was not installed anew."""
    module = pytest.importorskip(
        "openmmml", reason='openmm-ml is not installed: pip install ".[openmm-ml]"'
    )
    if "escn" not in module.MLPotential._implFactories:
        module.MLPotential.registerImplFactory("escn", ESCNPotentialFactory())
    return module


def test_openmm_ml_finds_the_plug_in(openmmml):
    installed = [e for e in metadata.entry_points(group=GROUP) if e.name == "escn"]
    if not installed:
        pytest.skip("this egno-md was installed before it had the plug-in; install it again")
    assert type(openmmml.MLPotential._implFactories["escn"]) is installed[0].load()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return save_water_bundle(tmp_path_factory.mktemp("models") / "water.bundle")


@pytest.fixture(scope="module")
def double(bundle):
    return ESCNPotential(load_bundle(bundle), dtype=torch.float64)


@pytest.fixture
def potential(openmmml, bundle):
    return openmmml.MLPotential("escn", modelPath=bundle, precision="double", device="cpu")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_whole_system(potential, double, platform):
    x, numbers = waters(2)
    system = potential.createSystem(topology(numbers))
    kinds = [type(force).__name__ for force in system.getForces()]
    assert kinds == ["PythonForce", "CMMotionRemover"]
    assert potential.createSystem(topology(numbers), removeCMMotion=False).getNumForces() == 1
    energy, forces = asked_directly(double, x, numbers)
    found = energy_forces(context_of(system, x, platform))
    assert found[0] == pytest.approx(energy, rel=1e-5)
    np.testing.assert_allclose(found[1], forces, rtol=0, atol=1e-5 * np.abs(forces).max())


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_periodic_system(potential, double, platform):
    x, numbers = waters(8)
    system = potential.createSystem(topology(numbers, 0.64))
    assert system.getForce(0).usesPeriodicBoundaryConditions()
    context = context_of(system, x, platform)
    before = energy_forces(context)[0]
    assert before == pytest.approx(asked_directly(double, x, numbers, 0.64)[0], rel=1e-5)
    context.setPositions(x + np.array([0.9, 0.0, 0.0]))
    assert energy_forces(context)[0] == pytest.approx(before, rel=1e-5)


def test_precision_is_applied(openmmml, bundle, double):
    x, numbers = waters(2)
    exact = asked_directly(double, x, numbers)[0]
    off = {}
    for told, asked in ((None, "single"), (None, "double"), ("double", None), (None, None)):
        made = openmmml.MLPotential("escn", modelPath=bundle, precision=told, device="cpu")
        more = {} if asked is None else {"precision": asked}
        system = made.createSystem(topology(numbers), **more)
        off[told, asked] = abs(energy_forces(context_of(system, x))[0] - exact)
    assert off[None, "double"] == off["double", None] < 1e-9
    assert 1e-9 < off[None, "single"] < 1e-2
    assert off[None, None] == off[None, "single"]  # the bundle's own


def test_the_force_group_and_a_scale(potential):
    numbers = waters(1)[1]
    mixed = potential.createMixedSystem(
        topology(numbers), classical(numbers), [0, 1, 2], forceGroup=3, scale="part"
    )
    ours = [f for f in mixed.getForces() if isinstance(f, openmm.PythonForce)]
    assert [f.getForceGroup() for f in ours] == [3]
    assert dict(ours[0].getGlobalParameters()) == {"part": 1.0}


def classical(numbers, bonds=(), box_nm=None, constraints=()):
    """Charges, Lennard-Jones and springs between bonded particles."""
    system, pairs, springs = openmm.System(), openmm.NonbondedForce(), openmm.HarmonicBondForce()
    for z in numbers:
        system.addParticle(15.999 if z == 8 else 1.008)
        pairs.addParticle(-0.8 if z == 8 else 0.4, 0.3 if z == 8 else 0.15, 0.3)
    for i, j in bonds:
        springs.addBond(i, j, 0.1, 2e5)
    for i, j in constraints:
        system.addConstraint(i, j, 0.1)
    if box_nm is not None:
        system.setDefaultPeriodicBoxVectors(*(np.eye(3) * box_nm))
        pairs.setNonbondedMethod(openmm.NonbondedForce.PME)
        pairs.setCutoffDistance(0.45 * box_nm)
        springs.setUsesPeriodicBoundaryConditions(True)
    pairs.createExceptionsFromBonds(bonds, 0.0, 0.0)
    system.addForce(pairs)
    system.addForce(springs)
    return system


def water_bonds(n):
    return [(3 * k, 3 * k + h) for k in range(n) for h in (1, 2)]


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("box_nm", [None, 1.2], ids=["open", "PME"])
def test_mechanical_embedding_and_interpolation(potential, double, platform, box_nm):
    x, numbers = waters(8)
    bonds, atoms = water_bonds(8), [3, 4, 5]
    system, top = classical(numbers, bonds, box_nm), topology(numbers, box_nm, bonds)
    kept = openmm.XmlSerializer.serialize(system)
    whole = energy_forces(context_of(system, x, platform))[0]
    # The molecule's own classical energy is its springs: all its pairs are excluded.
    own = sum(1e5 * (np.linalg.norm(x[3] - x[h]) - 0.1) ** 2 for h in (4, 5))
    learned = asked_directly(double, x[atoms], [8, 1, 1], box_nm)[0]
    mixed = potential.createMixedSystem(top, system, atoms)
    found = energy_forces(context_of(mixed, x, platform))[0]
    assert found == pytest.approx(whole - own + learned, rel=1e-5)
    between = potential.createMixedSystem(top, system, atoms, interpolate=True)
    context = context_of(between, x, platform)
    for part in (0.0, 0.5, 1.0):
        context.setParameter("lambda_interpolate", part)
        energy = (1 - part) * whole + part * found
        assert energy_forces(context)[0] == pytest.approx(energy, rel=1e-5)
    assert openmm.XmlSerializer.serialize(system) == kept


def test_constraints_inside_the_learned_part_are_taken_away(potential):
    numbers, bonds = waters(2)[1], water_bonds(2)
    system = classical(numbers, bonds, constraints=bonds)
    top = topology(numbers, bonds=bonds)
    assert potential.createMixedSystem(top, system, [0, 1, 2]).getNumConstraints() == 2
    kept = potential.createMixedSystem(top, system, [0, 1, 2], removeConstraints=False)
    assert kept.getNumConstraints() == 4


def test_link_atoms_close_cut_bonds(potential, double):
    # Hydrogen peroxide, cut through its middle: H-O + a hydrogen on the way to the other O.
    numbers, bonds = [1, 8, 8, 1], [(0, 1), (1, 2), (2, 3)]
    x = np.array([[-0.05, 0.09, 0.02], [0, 0, 0], [0.147, 0, 0], [0.19, 0.085, -0.03]])
    system, top = classical(numbers, bonds), topology(numbers, bonds=bonds)
    info = potential.createMixedSystem(top, system, [0, 1], returnInfo=True)
    mixed, grown, moved = info["system"], info["topology"], info["oldToNew"]
    assert (top.getNumAtoms(), grown.getNumAtoms(), mixed.getNumParticles()) == (4, 5, 5)
    assert list(moved) == [0, 1, 2, 3]
    assert mixed.isVirtualSite(4)
    (force,) = [f for f in mixed.getForces() if isinstance(f, openmm.PythonForce)]
    assert list(force.getParticles()) == [0, 1, 4]
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0002)
    context = context_of(mixed, np.vstack((x, x[:1])), integrator=integrator)
    context.computeVirtualSites()
    state = context.getState(getPositions=True)
    places = np.array(state.getPositions(asNumpy=True)._value)
    assert np.linalg.norm(places[4] - places[1]) < 0.12
    _, forces = energy_forces(context)
    for particle, axis in ((1, 0), (2, 0), (0, 1)):
        assert -slope(context, particle, axis) == pytest.approx(forces[particle, axis], rel=1e-4)
    context.computeVirtualSites()
    integrator.step(5)
    now = context.getState(getPositions=True, getEnergy=True)
    assert np.isfinite(now.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))


def test_systems_of_one_potential_share_its_model(potential, bundle):
    import gc

    from egno_md.calculators import shared_models

    gc.collect()
    before = len(shared_models._ALIVE)
    systems = [potential.createSystem(topology([8, 1, 1])) for _ in range(3)]
    systems.append(copy.deepcopy(systems[0]))
    assert len(shared_models._ALIVE) == before


def test_it_is_local_and_has_no_embedding_of_its_own(potential):
    assert potential._impl.getMLLongRange() is False
    assert potential._impl.getSupportedEmbeddings() == []
    assert "mechanical" in potential.getSupportedEmbeddings()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs modelPath"),
        ({"modelPath": "ethanol-escn", "precison": "single"}, "does not know precison"),
        ({"modelPath": "ethanol-escn", "precision": "half"}, '"single" or "double", got \'half\''),
        ({"modelPath": "ethanol-egno"}, "of kind 'egno'"),
    ],
)
def test_wrong_options_are_refused(openmmml, options, words):
    with pytest.raises(ValueError, match=words):
        openmmml.MLPotential("escn", **options)


def test_what_the_model_does_not_know_is_refused(openmmml, potential):
    with pytest.raises(FileNotFoundError, match="no bundle 'nothing'"):
        openmmml.MLPotential("escn", modelPath="nothing")
    with pytest.raises(ValueError, match="neither charge nor spin, got charge=1"):
        potential.createSystem(topology([8, 1, 1]), charge=1)
    with pytest.raises(ValueError, match="multiplicity=2"):
        potential.createSystem(topology([8, 1, 1]), multiplicity=2)
    assert potential.createSystem(topology([8, 1]), charge=0, multiplicity=1).getNumForces() == 2
    with pytest.raises(ValueError, match="particle 1 is C"):
        potential.createSystem(topology([8, 6]))


def test_a_compiled_model_is_another_one_in_memory(openmmml, bundle):
    made = openmmml.MLPotential(
        "escn", modelPath=bundle, precision="double", device="cpu", compile=True
    )
    x, numbers = waters(2)
    system = made.createSystem(topology(numbers))
    compiled = open_shared(bundle, "cpu", "float64", compile=True).potential
    assert open_shared(bundle, "cpu", "float64").potential is not compiled
    compiled.compiled.compiling = Compiling(strict=True, backend="eager")
    energy_forces(context_of(system, x))
    assert compiled.compiled.n_compiled == 1
