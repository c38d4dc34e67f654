"""openmm-torch, if it is there: what it can do here, and if it cannot be used exactly why.

The wheels of openmm-torch say that any torch and any OpenMM will do, but each was built for one
torch, one CUDA and a narrow range of OpenMM, and fails with an unhelpful line elsewhere.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from egno_md.calculators.openmm_evaluation import ForcePlan, TensorEvaluation
    from egno_md.roles import Potential

#: Where to look for help.
_SOURCE: Final = "build openmm-torch from source, or take backend='python', which needs nothing"


@dataclass(frozen=True, slots=True)
class WheelPins:
    """What a wheel of openmm-torch was built for.

    Attributes:
        torch: major and minor version.
        cuda: major version of CUDA that torch must have.
        openmm: first version that works, and the first after it that does not.
    """

    torch: str
    cuda: str
    openmm: tuple[str, str]


#: The wheels on the package index, by version.
WHEELS: Final = {"1.5": WheelPins("2.9", "12", ("8.4", "8.6"))}


def why_not(version: str | None = None) -> str | None:
    """Say why openmm-torch cannot be used here; None if it can.

    Args:
        version: of the wheel, if it is not the installed one that is asked about.
    """
    installed = _installed_version() if version is None else version
    misfits = _misfits(installed or max(WHEELS))
    if installed is None:
        what = f"openmmtorch is not installed; {_wanted(max(WHEELS))}"
        return f"{what}; here {misfits}" if misfits else f"{what}, which fits this environment"
    error = _import_error()
    if error is None:
        return None
    if installed in WHEELS and misfits:
        error = f"{_wanted(installed)}; here {misfits} ({error})"
    return f"openmmtorch {installed} cannot be imported: {error}"


def limits() -> list[str]:
    """Say what an openmm-torch that can be imported does not do here."""
    module = _module()
    found = []
    if not hasattr(module, "PythonTorchForce"):
        found.append("it has no PythonTorchForce")
    pins = WHEELS.get(_installed_version() or "")
    if pins and not hasattr(module, "PythonTorchForce"):
        import openmm

        here = openmm.Platform.getOpenMMVersion()
        if _numbers(here) >= _numbers(pins.openmm[1]):
            found.append(f"OpenMM {here} crashes when it copies or writes a TorchForce of it")
    return found


def python_torch_force(evaluation: TensorEvaluation, particles: list[int]) -> Any:  # noqa: ANN401
    """Make a `PythonTorchForce`.

    Args:
        evaluation: the function it calls.
        particles: to act on; empty: all.

    Raises:
        ImportError: if openmm-torch or the class is missing.
    """
    module = _required("python-torch", "PythonTorchForce")
    scale = evaluation.plan.scale
    return module.PythonTorchForce(evaluation, {scale: 1.0} if scale else {}, particles)


def torchscript_force(potential: Potential, plan: ForcePlan, particles: list[int]) -> Any:  # noqa: ANN401
    """Make a `TorchForce` from a TorchScript module.

    Args:
        potential: must be an `ESCNPotential`.
        plan: atoms, periodicity, scale.
        particles: to act on; empty: all.

    Raises:
        ImportError: if openmm-torch is missing.
        ValueError: if the model cannot be written as TorchScript.
    """
    module = _required("torchscript", "TorchForce")
    from egno_md.calculators.torchscript_energy import as_torchscript

    script = as_torchscript(potential, plan.numbers, particles, plan.periodic, bool(plan.scale))
    # Frozen and written, which TorchForce does, no method of the module calls another. Else torch
    # dies, instead of raising, when it names the calls that led to an error: TorchForce has let go
    # of the methods by then. (Frozen but not written it dies too.)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated
        force = module.TorchForce(torch.jit.freeze(script, optimize_numerics=False))
    force.setOutputsForces(True)
    if plan.scale:
        force.addGlobalParameter(plan.scale, 1.0)
    return force


def _required(backend: str, name: str) -> ModuleType:
    """Return the module if it has a class."""
    reason = why_not()
    if reason is not None:
        raise ImportError(f"backend={backend!r} needs openmm-torch: {reason}; {_SOURCE}")
    module = _module()
    if not hasattr(module, name):
        version = _installed_version()
        raise ImportError(
            f"backend={backend!r} needs openmmtorch.{name}, which openmmtorch {version} does not "
            f"have; {_SOURCE}"
        )
    return module


def _module() -> ModuleType:
    with warnings.catch_warnings():
        # It imports OpenMM by a name that OpenMM calls deprecated.
        warnings.simplefilter("ignore")
        module = importlib.import_module("openmmtorch")
    _load_plugins()
    return module


@cache
def _load_plugins() -> None:
    """Load what computes the forces, if OpenMM was imported before torch.

    OpenMM loads its plugins while it is imported. Those of openmm-torch need torch's libraries by
    then, else a Context says "does not support all required kernels".
    """
    import openmm

    for failure in openmm.Platform.getPluginLoadFailures():
        found = re.search(r"\S*OpenMMTorch\w*\.(so|dylib|dll)", failure)
        if found:
            # One for a platform that is not there either stays unloaded: nobody can ask for it.
            with suppress(openmm.OpenMMException):
                openmm.Platform.loadPluginLibrary(found.group())


def _import_error() -> str | None:
    try:
        _module()
    except Exception as error:  # a broken library raises whatever its loading meets
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    return None


def _installed_version() -> str | None:
    try:
        return metadata.version("openmmtorch")
    except metadata.PackageNotFoundError:
        there = "openmmtorch" in sys.modules or importlib.util.find_spec("openmmtorch")
        return "of unknown version" if there else None


def _wanted(version: str) -> str:
    pins = WHEELS[version]
    return (
        f"the wheel of openmmtorch {version} was built for torch {pins.torch} with CUDA "
        f"{pins.cuda} and OpenMM from {pins.openmm[0]} to before {pins.openmm[1]}"
    )


def _misfits(version: str) -> str:
    """What of this environment differs from what a wheel was built for."""
    import openmm

    pins = WHEELS.get(version)
    if pins is None:
        return ""
    found, here = [], openmm.Platform.getOpenMMVersion()
    if _numbers(torch.__version__)[:2] != _numbers(pins.torch):
        found.append(f"torch {torch.__version__}")
    if (torch.version.cuda or "none").split(".")[0] != pins.cuda:
        cuda = f"with CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        found.append(f"a torch {cuda}")
    if not _numbers(pins.openmm[0]) <= _numbers(here) < _numbers(pins.openmm[1]):
        found.append(f"OpenMM {here}")
    return ", ".join(found)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
