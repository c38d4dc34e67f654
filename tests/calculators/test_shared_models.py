"""What a force keeps of its model when OpenMM copies it, writes it and reads it back."""

from __future__ import annotations

import copy
import gc
import json
import shutil
import subprocess
import sys

import openmm
import pytest
import torch

from egno_md.bundle import load_bundle
from egno_md.calculators import shared_models
from egno_md.calculators.openmm_evaluation import ForceEvaluation, ForcePlan
from egno_md.calculators.openmm_force import openmm_force
from egno_md.calculators.shared_models import ModelSource, find_shared, open_shared
from tests.calculators.openmm_waters import (
    Counting,
    context_of,
    energy_forces,
    save_water_bundle,
    system_of,
    waters,
)


@pytest.fixture
def bundle(tmp_path):
    return save_water_bundle(tmp_path / "water.bundle")


def models_alive():
    gc.collect()
    return len(shared_models._ALIVE)


def test_the_same_bundle_is_one_model(bundle):
    first = open_shared(bundle, "cpu")
    assert open_shared(str(bundle), torch.device("cpu")) is first
    assert open_shared(load_bundle(bundle), "cpu") is first
    assert find_shared(first.source) is first
    assert open_shared(bundle, "cpu", "float64") is not first
    assert open_shared(bundle, "cpu", torch.float64).potential.model.embedding.weight.dtype == (
        torch.float64
    )


def test_models_are_let_go_with_their_last_user(bundle):
    before = models_alive()
    first = open_shared(bundle, "cpu")
    force = openmm_force(bundle, [8, 1, 1], device="cpu")
    assert models_alive() == before + 1
    del first, force
    assert models_alive() == before


def test_packaged_bundles_go_by_name_and_others_by_path(bundle):
    assert open_shared("ethanol-escn").source.place == "ethanol-escn"
    assert open_shared(bundle).source.place == str(bundle)
    assert ModelSource("x", "y").torch_device.type in ("cpu", "cuda")
    assert ModelSource("x", "y", "cpu").torch_device == torch.device("cpu")


def test_a_written_force_is_small_and_copies_share_the_model(bundle):
    x, numbers = waters(20)
    system = system_of(numbers, openmm_force(bundle, numbers, device="cpu", dtype="float64"))
    text = openmm.XmlSerializer.serialize(system.getForce(0))
    assert len(text) < 2000
    assert bundle.name.encode().hex() in text
    before = models_alive()
    clones = [copy.deepcopy(system) for _ in range(5)]
    first = energy_forces(context_of(system, x))
    for clone in clones:
        again = energy_forces(context_of(clone, x))
        assert again[0] == first[0]
        assert (again[1] == first[1]).all()
    assert models_alive() == before


def test_everything_comes_back_from_xml(bundle):
    x, numbers = waters(8)
    atoms = [3, 4, 5, 0]
    options = {"device": "cpu", "dtype": "float64", "scale": "part"}
    force = openmm_force(bundle, numbers, atoms, periodic=True, **options)
    force.setForceGroup(7)
    back = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(force))
    assert back.getForceGroup() == 7
    if hasattr(force, "getParticles"):  # from OpenMM 8.6 on
        assert back.getName() == "ESCNForce"
        assert list(back.getParticles()) == atoms
    assert back.usesPeriodicBoundaryConditions()
    assert dict(back.getGlobalParameters()) == {"part": 1.0}
    found = []
    for one in (force, back):
        context = context_of(system_of(numbers, one, box_nm=0.62), x)
        context.setParameter("part", 0.5)
        found.append(energy_forces(context))
    assert found[0][0] == found[1][0]
    assert (found[0][1] == found[1][1]).all()


@pytest.mark.slow
def test_another_process_reads_the_force(bundle, tmp_path):
    x, numbers = waters(1)
    system = system_of(numbers, openmm_force(bundle, numbers, device="cpu"))
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    code = (
        "import json, sys, openmm\n"
        "s = openmm.XmlSerializer.deserialize(open(sys.argv[1]).read())\n"
        "p = openmm.Platform.getPlatformByName('Reference')\n"
        "c = openmm.Context(s, openmm.VerletIntegrator(0.001), p)\n"
        "c.setPositions(json.loads(sys.argv[2]))\n"
        "print(repr(c.getState(getEnergy=True).getPotentialEnergy()._value))"
    )
    arguments = [str(tmp_path / "system.xml"), json.dumps(x.tolist())]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == energy_forces(context_of(system, x))[0]


def broken_energy(text, numbers, x):
    """What is said when a force read from XML is evaluated."""
    force = openmm.XmlSerializer.deserialize(text)
    with pytest.raises(openmm.OpenMMException) as error:
        energy_forces(context_of(system_of(numbers, force), x))
    return str(error.value)


def test_a_bundle_that_has_changed_or_gone_is_an_error_at_the_first_evaluation(bundle):
    x, numbers = waters(1)
    text = openmm.XmlSerializer.serialize(openmm_force(bundle, numbers, device="cpu"))
    gc.collect()  # the model must not be found in memory
    other = save_water_bundle(bundle.with_name("other.bundle"), seed=9)
    moved = bundle.with_name("moved.bundle")
    bundle.rename(moved)
    assert "no such folder" in broken_energy(text, numbers, x)
    shutil.copytree(other, bundle)
    assert "was made with" in broken_energy(text, numbers, x)
    # The old card beside other weights: the card's own hash finds that.
    shutil.copy(moved / "bundle.json", bundle)
    assert "but the card says" in broken_energy(text, numbers, x)
    shutil.copy(moved / "weights.safetensors", bundle)
    energy_forces(context_of(system_of(numbers, openmm.XmlSerializer.deserialize(text)), x))


def test_a_bundle_that_changed_since_it_was_read_is_refused(bundle):
    read = load_bundle(bundle)
    save_water_bundle(bundle, seed=9)
    with pytest.raises(ValueError, match="changed on disk since it was read"):
        open_shared(read)
    (bundle / "bundle.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no bundle\.json"):
        open_shared(bundle)


def test_a_potential_in_memory_is_shared_by_copies_in_the_same_process():
    potential = Counting()
    x, numbers = waters(1)
    system = system_of(numbers, openmm_force(potential, numbers))
    energy_forces(context_of(copy.deepcopy(system), x))
    assert potential.calls == 1


def test_a_potential_in_memory_does_not_outlive_its_force():
    x, numbers = waters(1)
    force = openmm_force(Counting(), numbers)
    text = openmm.XmlSerializer.serialize(force)
    del force
    gc.collect()
    force = openmm.XmlSerializer.deserialize(text)
    with pytest.raises(openmm.OpenMMException, match="memory of the process that made it"):
        energy_forces(context_of(system_of(numbers, force), x))


def test_reading_back_never_fails_itself():
    # OpenMM ends the process when the function of a force cannot be unpickled.
    plan = ForcePlan(ModelSource("gone", "0" * 64, "cuda:7", "float64"), (8, 1), True, "s", (4, 2))
    make, given = ForceEvaluation(plan).__reduce__()
    assert make(*given).plan == plan
