"""`egno-md check BUNDLE`: is it physics? Symmetries, derivatives, smoothness, conservation."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from egno_md.job import Job, read_job

if TYPE_CHECKING:
    from egno_md.bundle import Bundle
    from egno_md.state import State


class CheckConfig(Job):
    """Check that a bundle obeys physics near a geometry; exit code 1 if a limit is passed."""

    verb: ClassVar[str] = "check"
    positional: ClassVar[str | None] = "bundle"

    bundle: tuple[str, ...] = ()
    """Packaged names or paths."""
    structure: str | None = None
    """A geometry the bundles are meant for; else the packaged example of their molecule, or a cell
    of their elements where the bundle names no molecule."""
    length_ps: float = Field(0.5, ge=0.0)
    """Length of the runs at constant energy, ps; 0 leaves them out."""
    timestep_fs: float = Field(0.25, gt=0.0, le=2.0)
    """Their time step, fs."""
    n_replicas: int = Field(4, ge=2, le=10_000)
    """Their replicas."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of displacements, rotations and velocities."""
    as_json: bool = False
    """Print the results as JSON."""
    n_threads: int = Field(1, ge=1, le=1024)
    """Threads of the network."""


def run(argv: Sequence[str]) -> int:
    """Check bundles.

    Args:
        argv: arguments after the verb.

    Returns:
        0 if every check passed, 1 if one did not.

    Raises:
        ValueError: if a bundle is damaged or no geometry fits it.
        FileNotFoundError: if a file is missing.
    """
    job = read_job(CheckConfig, argv)
    if not job.bundle:
        raise ValueError("name the bundles to check, such as: egno-md check ethanol-escn")
    import torch

    from egno_md.bundle import load_bundle
    from egno_md.data.structures import read_structure
    from egno_md.testing.conformance import CheckPlan, check_bundle

    torch.set_num_threads(job.n_threads)
    plan = CheckPlan(
        length_ps=job.length_ps,
        timestep_fs=job.timestep_fs,
        n_replicas=job.n_replicas,
        seed=job.seed,
    )
    failed, found = 0, {}
    for name in job.bundle:
        bundle = load_bundle(name)
        start = read_structure(job.structure) if job.structure else _example(bundle)
        results = check_bundle(bundle, start, plan)
        failed += sum(not r.passed for r in results)
        found[name] = [
            {"name": r.name, "value": r.value, "limit": r.limit, "unit": r.unit} for r in results
        ]
        if not job.as_json:
            print(name)
            sys.stdout.writelines(f"  {result}\n" for result in results)
    if job.as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    elif failed:
        print(f"{failed} checks failed")
    return 1 if failed else 0


def _example(bundle: Bundle) -> State:
    """The packaged geometry of a molecule the bundle was trained on, or a cell of its elements."""
    from importlib import resources

    from egno_md.data.structures import read_structure

    folder = Path(str(resources.files("egno_md"))) / "examples"
    for file in sorted(folder.iterdir()):
        if file.suffix in (".xyz", ".pdb"):
            start = read_structure(file)
            trained_on = bundle.was_trained_on(start.molecule)
            if trained_on is None and all(start.molecule.pbc):
                trained_on = set(start.molecule.numbers.tolist()) == set(bundle.card.elements)
            if trained_on:
                return start
    raise ValueError(
        f"no packaged structure is of a molecule or crystal that {bundle.name} was trained on; "
        "give one by --structure FILE"
    )
