"""The backends of openmm-torch: real where it is installed, else with stand-ins.

The stand-ins call what they are given exactly as openmm-torch does and hand the result to OpenMM.
"""

from __future__ import annotations

import io
import sys
import types
import warnings

import numpy as np
import openmm
import pytest
import torch

from egno_md.calculators import openmm_torch_backend as backend
from egno_md.calculators.openmm_force import openmm_force
from tests.calculators.openmm_waters import (
    Counting,
    context_of,
    energy_forces,
    save_water_bundle,
    system_of,
    waters,
)

REAL = backend.why_not() is None


class TensorCaller:
    """Calls a function of state and tensor for `PythonForce`."""

    def __init__(self, function, dtype):
        self.function, self.dtype = function, dtype

    def __call__(self, state):
        x = torch.from_numpy(state.getPositions(asNumpy=True)._value).to(self.dtype)
        energy, forces = self.function(state, x)
        assert forces.dtype == x.dtype
        assert forces.shape == x.shape
        assert energy.ndim == 0
        return energy.item(), forces.double().numpy()


class PythonTorchForce(openmm.PythonForce):
    """A stand-in that computes in float32, as OpenMM does on a GPU."""

    def __init__(self, function, parameters, particles):
        super().__init__(TensorCaller(function, torch.float32), parameters, particles)


class ScriptCaller:
    """Calls a script module with positions, box and parameters, in this order."""

    def __init__(self, module):
        written = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls TorchScript deprecated
            torch.jit.save(module, written)
            self.module = torch.jit.load(io.BytesIO(written.getvalue()))
        self.names, self.periodic = [], False

    def __call__(self, state):
        inputs = [torch.from_numpy(state.getPositions(asNumpy=True)._value)]
        if self.periodic:
            inputs.append(torch.from_numpy(state.getPeriodicBoxVectors(asNumpy=True)._value))
        inputs += [torch.tensor(state.getParameters()[name]) for name in self.names]
        energy, forces = self.module(*inputs)
        return energy.item(), forces.numpy()


class TorchForce(openmm.PythonForce):
    """A stand-in for the force that runs a script module."""

    def __init__(self, module):
        assert isinstance(module, torch.jit.ScriptModule)
        self.caller = ScriptCaller(module)
        super().__init__(self.caller, {"part": 1.0})
        self.outputs_forces = False

    def setOutputsForces(self, given):
        self.outputs_forces = given

    def addGlobalParameter(self, name, default):
        assert default == 1.0
        self.caller.names.append(name)

    def setUsesPeriodicBoundaryConditions(self, periodic):
        self.caller.periodic = periodic
        super().setUsesPeriodicBoundaryConditions(periodic)


@pytest.fixture
def openmmtorch(monkeypatch):
    """openmm-torch itself, or the stand-ins in its place."""
    if not REAL:
        module = types.ModuleType("openmmtorch")
        module.TorchForce = TorchForce
        if hasattr(openmm.PythonForce, "setParticles"):  # the stand-in needs OpenMM 8.6
            module.PythonTorchForce = PythonTorchForce
        monkeypatch.setitem(sys.modules, "openmmtorch", module)
    return sys.modules.get("openmmtorch") or backend._module()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return save_water_bundle(tmp_path_factory.mktemp("models") / "water.bundle")


BOX_NM = 0.7
CASES = {
    "open": ({}, None),
    "chosen": ({"atoms": [3, 4, 5, 0]}, None),
    "box": ({"periodic": True}, BOX_NM),
    "scale": ({"scale": "part"}, None),
    "all": ({"atoms": [3, 4, 5, 0], "periodic": True, "scale": "part"}, BOX_NM),
}


@pytest.mark.parametrize(("options", "box_nm"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", ["python-torch", "torchscript"])
def test_gives_what_the_default_backend_gives(openmmtorch, bundle, name, options, box_nm):
    if name == "python-torch" and not hasattr(openmmtorch, "PythonTorchForce"):
        pytest.skip("this openmm-torch has no PythonTorchForce")
    x, numbers = waters(3)
    found = []
    for one in ("auto", name):
        force = openmm_force(bundle, numbers, backend=one, device="cpu", dtype="float64", **options)
        assert force.usesPeriodicBoundaryConditions() == (box_nm is not None)
        context = context_of(system_of(numbers, force, box_nm=box_nm), x)
        if "scale" in options:
            context.setParameter("part", 0.5)
        found.append(energy_forces(context))
    (energy, forces), (same, mine) = found
    assert abs(energy) > 0.1
    assert same == pytest.approx(energy, rel=1e-5)
    np.testing.assert_allclose(mine, forces, rtol=0, atol=1e-5 * np.abs(forces).max())


def test_a_tensor_force_is_written_small_and_comes_back(openmmtorch, bundle):
    if not hasattr(openmmtorch, "PythonTorchForce"):
        pytest.skip("this openmm-torch has no PythonTorchForce")
    x, numbers = waters(1)
    force = openmm_force(bundle, numbers, backend="python-torch", device="cpu")
    text = openmm.XmlSerializer.serialize(force)
    assert len(text) < 2000
    back = openmm.XmlSerializer.deserialize(text)
    first, second = (energy_forces(context_of(system_of(numbers, f), x)) for f in (force, back))
    assert first[0] == second[0]


def test_a_tensor_function_is_not_for_python_force():
    from egno_md.calculators.openmm_evaluation import ForcePlan, TensorEvaluation
    from egno_md.calculators.shared_models import open_shared

    shared = open_shared(Counting())
    with pytest.raises(ValueError, match="passes positions"):
        TensorEvaluation(ForcePlan(shared.source, (8,), False), shared)(None)


@pytest.fixture
def environment(monkeypatch):
    """Pretend: what is installed, what importing it does, which torch and OpenMM there are."""

    def pretend(installed, error=None, torch_version="2.13.0+cpu", cuda=None, engine="8.6.1"):
        monkeypatch.setattr(backend, "_installed_version", lambda: installed)
        monkeypatch.setattr(backend, "_import_error", lambda: error)
        monkeypatch.setattr(torch, "__version__", torch_version)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(openmm.Platform, "getOpenMMVersion", staticmethod(lambda: engine))

    return pretend


LINE = "ImportError: libnvrtc.so.12"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            (None,),
            [
                "not installed",
                "1.5 was built for torch 2.9 with CUDA 12 and OpenMM from 8.4 to before 8.6",
                "here torch 2.13.0+cpu, a torch without CUDA, OpenMM 8.6.1",
            ],
        ),
        ((None, None, "2.9.1+cu128", "12.8", "8.5.2"), ["not installed", "fits this environment"]),
        (("1.5", LINE), ["1.5 cannot be imported", "here torch 2.13.0+cpu", LINE]),
        (("1.5", LINE, "2.9.1+cu130", "13.0", "8.5.2"), ["here a torch with CUDA 13.0 ("]),
        (("1.5", LINE, "2.9.1+cu128", "12.8", "8.3.1"), ["here OpenMM 8.3.1 ("]),
        (("1.5", LINE, "2.9.1+cu128", "12.8", "8.5.2"), ["1.5 cannot be imported: ImportError"]),
        (("2.0", LINE), ["2.0 cannot be imported: ImportError: libnvrtc.so.12"]),
    ],
)
def test_says_exactly_why_not(environment, given, words):
    environment(*given)
    reason = backend.why_not()
    for word in words:
        assert word in reason
    assert "\n" not in reason


def test_says_nothing_where_it_works(environment):
    environment("1.5", None, "2.9.1+cu128", "12.8", "8.5.2")
    assert backend.why_not() is None


def test_says_what_a_working_one_cannot_do(environment, monkeypatch):
    module = types.ModuleType("openmmtorch")
    monkeypatch.setitem(sys.modules, "openmmtorch", module)
    environment("1.5", None, "2.9.1+cu128", "12.8", "8.6.1")
    assert "no PythonTorchForce" in backend.limits()[0]
    assert "OpenMM 8.6.1 crashes" in backend.limits()[1]
    environment("1.5", None, "2.9.1+cu128", "12.8", "8.5.2")
    assert len(backend.limits()) == 1
    module.PythonTorchForce = PythonTorchForce
    assert backend.limits() == []


@pytest.mark.parametrize("name", ["python-torch", "torchscript"])
def test_a_missing_backend_is_an_error_that_says_why(environment, name):
    environment(None)
    with pytest.raises(ImportError, match=rf"'{name}' needs openmm-torch: .*OpenMM 8\.6\.1; build"):
        openmm_force(Counting(), [8], backend=name)


def test_a_missing_class_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openmmtorch", types.ModuleType("openmmtorch"))
    with pytest.raises(ImportError, match=r"needs openmmtorch\.PythonTorchForce, which"):
        openmm_force(Counting(), [8], backend="python-torch")


def test_torchscript_is_for_small_escn_alone(openmmtorch):
    with pytest.raises(ValueError, match="only an ESCNPotential"):
        openmm_force(Counting(), [8], backend="torchscript")
