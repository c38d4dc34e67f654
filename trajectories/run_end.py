"""What `egno-md run` leaves at its end: exported files, the report, run.json, a few lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from egno_md.bundle import load_bundle
from egno_md.propagators.potential_bundles import potential_of
from egno_md.roles import Potential
from egno_md.state import Molecule
from egno_md.trajectories.cost_ledger import ClassicalCost, measure_classical_cost
from egno_md.trajectories.export import export
from egno_md.trajectories.generate import RunSummary
from egno_md.trajectories.run_models import RunModels
from egno_md.trajectories.run_output import describe, run_facts, write_run_json
from egno_md.trajectories.run_record import read_run
from egno_md.trajectories.store_reader import TrajectoryReader

if TYPE_CHECKING:
    from egno_md.config import RunConfig

#: Classical dynamics does not need shorter steps, fs, so a run is not compared with any.
_CLASSICAL_STEP_FS: Final = 0.5

#: What a run leaves for programs.
RUN_FILE: Final = "run.json"


def finish(
    config: RunConfig, models: RunModels, summary: RunSummary, warned: Sequence[str]
) -> None:
    """Export, report, run.json, and a few lines for people.

    Args:
        config: settings.
        models: of the run.
        summary: what the run came to.
        warned: what was warned of, in all sittings.

    Raises:
        OSError: if something cannot be written.
    """
    out, store = Path(config.out), summary.store
    written = [store]
    for kind in config.export:
        replicas = None if config.export_all else [0]
        written += export(store, out / f"trajectory.{kind}", replicas=replicas)
    bundles = (models.learned, models.guard)
    reference = next((b.reference for b in bundles if b is not None and b.reference), None)
    record = replace(read_run(store, reference), warnings=tuple(warned))
    facts = run_facts(record, summary)
    print(describe(record, summary))
    if config.report:
        # Only a report needs what draws.
        from egno_md.trajectories.report import report_on

        report = report_on(
            record,
            out / "report.html",
            bundle=models.learned,
            guard=models.guard,
            cheap=models.cheap,
            others=models.others,
            cost=_classical_cost(config, models, store),
        )
        written.append(report.path)
        facts["report"] = {"mark": str(report.mark), "headline": report.headline}
        facts["costs"] = None if report.ledger is None else report.ledger.to_json()
        print(f"{report.mark}: {report.headline}")
    content = {
        "config": config.model_dump(mode="json"),
        "bundles": dict(record.bundles),
        "versions": dict(record.versions),
        **facts,
    }
    write_run_json(out / RUN_FILE, content)
    written.append(out / RUN_FILE)
    print("wrote " + ", ".join(dict.fromkeys(str(path) for path in written)))


def earlier_warnings(out: Path) -> list[str]:
    """Read what earlier sittings warned of while they ran; the store has only what came before.

    Args:
        out: folder of the run.
    """
    try:
        found = json.loads((out / RUN_FILE).read_text(encoding="utf-8")).get("warnings", [])
    except (OSError, ValueError, AttributeError):  # there is none, or not one of ours
        return []
    return [str(text) for text in found] if isinstance(found, list) else []


def _classical_cost(config: RunConfig, models: RunModels, store: Path) -> ClassicalCost | None:
    """Time classical dynamics with the potential of the run, unless that is the run itself."""
    if config.mode == "classical" and config.inner_potential is None:
        return None
    reader = TrajectoryReader(store)
    last = reader.segment(reader.n_frames - 1, reader.n_frames).last
    potential = models.potential or _known_potential(config, last.molecule)
    if potential is None:
        return None
    # Parareal makes the trajectory of that very step.
    serial = config.mode == "parareal"
    step_fs = config.timestep_fs if serial else max(config.timestep_fs, _CLASSICAL_STEP_FS)
    try:
        return measure_classical_cost(potential, last, step_fs, name=str(config.guard))
    except ValueError as error:  # a report without a price is better than none
        print(f"egno-md: the classical price was not measured: {error}", file=sys.stderr)
        return None


def _known_potential(config: RunConfig, molecule: Molecule) -> Potential | None:
    """The potential that would guard a run by the network alone, if it knows the molecule."""
    if config.guard is None or ":" in config.guard:
        return None
    try:
        # A quick copy is nobody's alternative: it is not to be trusted alone.
        bundle = load_bundle(config.guard, kind="escn")
    except (FileNotFoundError, ValueError):  # it is not needed, and the run is over
        return None
    if not bundle.was_trained_on(molecule):
        return None
    return potential_of(bundle, device=config.device, dtype=getattr(torch, config.dtype))
