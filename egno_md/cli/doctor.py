"""`egno-md doctor`: what is installed, what is missing, why, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import ClassVar, Final, Literal

from egno_md.job import Job, read_job


class DoctorConfig(Job):
    """Explain the environment; exit code 1 if something the library needs is missing."""

    verb: ClassVar[str] = "doctor"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        mark: ok; missing (of an extra); bad (needed and not there).
        subject: what was looked at.
        text: what was found.
    """

    mark: Literal["ok", "missing", "bad"]
    subject: str
    text: str


#: Import name and distribution name of what the library always needs.
_NEEDED: Final = (
    ("torch", "torch"),
    ("numpy", "numpy"),
    ("ase", "ase"),
    ("openmm", "OpenMM"),
    ("mdtraj", "mdtraj"),
    ("e3nn", "e3nn"),
    ("vesin", "vesin"),
    ("vesin.torch", "vesin-torch"),
    ("safetensors", "safetensors"),
    ("pydantic", "pydantic"),
    ("tyro", "tyro"),
    ("rich", "rich"),
    ("zarr", "zarr"),
    ("tables", "tables"),
    ("matplotlib", "matplotlib"),
)

#: Import name, distribution name and what it would add. These are imported to see if they work.
_EXTRAS: Final = (("openmmml", "openmmml", "the MLPotential door of OpenMM"),)

#: The same for what only tests use. Not imported: sgdml changes logging in the whole process.
_TEST_EXTRAS: Final = (
    ("sgdml", "sgdml", "tests compare our sGDML evaluation with it"),
    ("pytest", "pytest", "tests"),
)


def run(argv: Sequence[str]) -> int:
    """Print the report.

    Args:
        argv: arguments after the verb.

    Returns:
        0 if everything needed is there, else 1.
    """
    read_job(DoctorConfig, argv)
    findings = [_python(), *(_needed(i, d) for i, d in _NEEDED)]
    findings += [*_processors(), _cuda(), _openmm_platforms(), *_bundles()]
    findings += [_extra(i, d, use, _try_import) for i, d, use in _EXTRAS]
    findings += [_openmm_torch()]
    findings += [_extra(i, d, use, _look_for) for i, d, use in _TEST_EXTRAS]
    width = max(len(f.subject) for f in findings)
    for f in findings:
        print(f"{f.mark:<8}{f.subject:<{width}}  {f.text}")
    bad = [f.subject for f in findings if f.mark == "bad"]
    if bad:
        print(f"not usable: {', '.join(bad)}. Reinstall: pip install -c constraints.txt -e .")
        return 1
    print("everything needed is here")
    return 0


def _python() -> Finding:
    text = f"{platform.python_version()} at {sys.executable}, {platform.system().lower()}"
    return Finding("ok", "python", text)


def _try_import(name: str) -> str | None:
    """Import a module; return None if it works, else why not, in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
    except Exception as error:  # a broken package may raise anything
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    return None


def _look_for(name: str) -> str | None:
    """Find a module without importing it; return None if it is there."""
    return None if importlib.util.find_spec(name) else "not installed"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "version unknown"


def _needed(module: str, distribution: str) -> Finding:
    why = _try_import(module)
    if why is None:
        return Finding("ok", distribution, _version(distribution))
    return Finding("bad", distribution, f"cannot be imported: {why}")


def _extra(module: str, distribution: str, use: str, look: Callable[[str], str | None]) -> Finding:
    why = look(module)
    if why is None:
        return Finding("ok", distribution, f"{_version(distribution)} ({use})")
    return Finding("missing", distribution, f"{why} ({use})")


def _openmm_torch() -> Finding:
    """Whether openmm-torch fits this torch and this OpenMM, or exactly why not."""
    if _try_import("torch") is not None or _try_import("openmm") is not None:
        return Finding("missing", "openmmtorch", "torch or openmm cannot be imported")
    from egno_md.calculators.openmm_torch_backend import limits, why_not

    use = "two more backends of openmm_force; not needed"
    reason = why_not()
    if reason is not None:
        return Finding("missing", "openmmtorch", f"{reason} ({use})")
    text = "; ".join([_version("openmmtorch"), *limits()])
    return Finding("ok", "openmmtorch", f"{text} ({use})")


def _processors() -> list[Finding]:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    variables = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    text = ", ".join([f"{allowed} usable of {os.cpu_count()}", *variables])
    findings = [Finding("ok", "processors", text)]
    if _try_import("torch") is None:
        import torch

        findings.append(Finding("ok", "torch threads", str(torch.get_num_threads())))
    return findings


def _cuda() -> Finding:
    if _try_import("torch") is not None:
        return Finding("missing", "CUDA", "torch cannot be imported")
    import torch

    if torch.version.cuda is None:
        return Finding("missing", "CUDA", "this torch was built without it; --device cpu works")
    if not torch.cuda.is_available():
        return Finding("missing", "CUDA", f"torch has CUDA {torch.version.cuda} but sees no device")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("ok", "CUDA", f"{torch.version.cuda}: {', '.join(names)}")


def _openmm_platforms() -> Finding:
    if _try_import("openmm") is not None:
        return Finding("bad", "OpenMM platforms", "openmm cannot be imported")
    import openmm

    names = [
        openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())
    ]
    text, failures = ", ".join(names), openmm.Platform.getPluginLoadFailures()
    if failures:
        first = str(failures[0]).split("/")[-1].strip()
        text += f"; {len(failures)} plugins could not be loaded, the first: {first}"
    return Finding("ok", "OpenMM platforms", text)


def _bundles() -> list[Finding]:
    if _try_import("egno_md.bundle") is not None:
        return []
    from egno_md.bundle import load_bundle, packaged_bundles

    findings = []
    for name in packaged_bundles():
        try:
            card = load_bundle(name).card
        except (OSError, ValueError) as error:
            findings.append(Finding("bad", f"bundle {name}", str(error)))
            continue
        findings.append(Finding("ok", f"bundle {name}", f"{card.kind}, {card.level_of_theory}"))
    return findings
