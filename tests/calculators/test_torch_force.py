"""openmm-torch itself, never a stand-in: `make test-openmm-torch` builds the environment for it."""

from __future__ import annotations

import copy
import subprocess
import sys
from importlib import resources

import numpy as np
import openmm
import pytest

from egno_md.calculators import openmm_torch_backend as backend
from egno_md.calculators.openmm_force import openmm_force
from egno_md.cli import doctor
from egno_md.data.structures import read_structure
from egno_md.units import NM_PER_A
from tests.calculators.openmm_waters import PLATFORMS, context_of, energy_forces

pytestmark = pytest.mark.openmm_torch

ETHANOL = read_structure(str(resources.files("egno_md") / "examples" / "ethanol.xyz"))
MASSES = ETHANOL.molecule.masses.tolist()


def shaken(seed=3):
    """Ethanol off its minimum, `(9, 3)` nm."""
    x = ETHANOL.positions[0].double().numpy() * NM_PER_A
    return x + np.random.default_rng(seed).normal(0.0, 0.003, x.shape)


def system_with(force, before=0, box_nm=None):
    """A System of ethanol after some helium atoms, and one force."""
    system = openmm.System()
    for mass in [4.0] * before + MASSES:
        system.addParticle(mass)
    if box_nm is not None:
        system.setDefaultPeriodicBoxVectors(*(np.eye(3) * box_nm))
    system.addForce(force)
    return system


def force_by(name, before=0, **options):
    """A force of the packaged potential."""
    numbers = [2] * before + ETHANOL.molecule.numbers.tolist()
    chosen = list(range(before, len(numbers))) if before else None
    return openmm_force("ethanol-escn", numbers, chosen, backend=name, device="cpu", **options)


def test_it_is_installed_and_works():
    assert backend.why_not() is None
    assert hasattr(backend._module(), "TorchForce")
    found = doctor._openmm_torch()
    assert (found.mark, found.subject) == ("ok", "openmmtorch")


#: Options of the force, and of the System it is in.
CASES = {
    "open": ({}, {}),
    "box": ({"periodic": True, "scale": "part"}, {"box_nm": 1.3}),
    "chosen": ({}, {"before": 5}),
}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(("options", "place"), CASES.values(), ids=CASES)
def test_gives_the_energies_and_forces_of_python_force(platform, options, place):
    before = place.get("before", 0)
    x = np.vstack((np.random.default_rng(1).normal(0.0, 0.3, (before, 3)), shaken()))
    found = []
    for name in ("python", "torchscript"):
        force = force_by(name, before, **options)
        assert type(force).__name__ == {"python": "PythonForce", "torchscript": "TorchForce"}[name]
        context = context_of(system_with(force, **place), x, platform)
        if "scale" in options:
            context.setParameter("part", 0.5)
        found.append(energy_forces(context))
    (energy, forces), (same, mine) = found
    assert abs(energy) > 1e4
    assert same == pytest.approx(energy, rel=1e-5)
    assert np.abs(forces).max() > 100.0
    np.testing.assert_allclose(mine, forces, rtol=0, atol=1e-5 * np.abs(forces).max())
    assert not mine[:before].any()


def test_openmm_may_be_imported_before_torch():
    code = (
        "import openmm, egno_md as em\n"
        "force = em.openmm_force('ethanol-escn', [8, 1], backend='torchscript', device='cpu')\n"
        "system = openmm.System()\n"
        "for mass in (16, 1): system.addParticle(mass)\n"
        "system.addForce(force)\n"
        "for i in range(openmm.Platform.getNumPlatforms()):\n"
        "    platform = openmm.Platform.getPlatform(i)\n"
        "    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)\n"
        "    context.setPositions([[0, 0, 0], [0, 0, 0.1]])\n"
        "    print(context.getState(getEnergy=True).getPotentialEnergy()._value)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    energies = [float(line) for line in done.stdout.split() if line[0] in "-0123456789"]
    assert len(energies) == openmm.Platform.getNumPlatforms()
    np.testing.assert_allclose(energies, energies[0], rtol=1e-5)


def test_moves_atoms_the_same_way():
    ends = []
    for name in ("python", "torchscript"):
        context = context_of(system_with(force_by(name, dtype="float64")), shaken())
        first = context.getState(getEnergy=True).getPotentialEnergy()._value
        context.getIntegrator().step(20)
        state = context.getState(getEnergy=True, getPositions=True)
        kinetic = state.getKineticEnergy()._value
        assert kinetic > 1.0
        drift = state.getPotentialEnergy()._value + kinetic - first
        assert abs(drift) < 0.05 * kinetic
        ends.append(state.getPositions(asNumpy=True)._value)
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-7)


def test_runs_once_per_outer_step_of_multiple_time_steps():
    force = force_by("torchscript")
    force.setForceGroup(1)
    system = system_with(force)
    bond = openmm.HarmonicBondForce()
    bond.addBond(0, 1, 0.151, 1e4)
    system.addForce(bond)
    context = context_of(system, shaken(), integrator=openmm.MTSIntegrator(0.001, [(1, 1), (0, 4)]))
    context.getIntegrator().step(5)
    assert np.isfinite(energy_forces(context)[1]).all()


def test_minimises():
    context = context_of(system_with(force_by("torchscript")), shaken())
    before = energy_forces(context)[0]
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=5)
    assert energy_forces(context)[0] < before - 1.0


def test_copies_and_written_forces_give_the_same():
    system = system_with(force_by("torchscript", scale="part"))
    expected = energy_forces(context_of(copy.deepcopy(system), shaken()))[0]
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    assert energy_forces(context_of(again, shaken()))[0] == pytest.approx(expected, rel=1e-7)


def test_errors_are_exceptions_also_after_another_force_ran():
    good = context_of(system_with(force_by("torchscript")), shaken())
    energy = energy_forces(good)[0]
    for options, box_nm, x, words in (
        ({"periodic": True}, 0.9, shaken(), "thinner than two cutoffs"),
        ({}, None, np.zeros((9, 3)), "two atoms are in one place"),
        ({}, None, np.full((9, 3), np.nan), "not finite"),
    ):
        force = force_by("torchscript", **options)
        context = context_of(system_with(force, box_nm=box_nm), x)
        with pytest.raises(openmm.OpenMMException, match=words):
            energy_forces(context)
    assert energy_forces(good)[0] == energy


def test_what_the_wheel_does_not_have_is_refused():
    if hasattr(backend._module(), "PythonTorchForce"):
        pytest.skip("this openmm-torch has PythonTorchForce")
    with pytest.raises(ImportError, match=r"openmmtorch\.PythonTorchForce, which openmmtorch"):
        force_by("python-torch")
    assert "no PythonTorchForce" in backend.limits()[0]
