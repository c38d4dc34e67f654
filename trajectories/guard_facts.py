"""What a guard did in a run and what it bounds, read from the run's store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from egno_md.propagators.restart import taken_from
from egno_md.trajectories import restart as restart_file
from egno_md.trajectories.guard_calibration import limit_sentences
from egno_md.trajectories.store_format import JOURNAL
from egno_md.trajectories.store_reader import TrajectoryReader


def guard_facts(reader: TrajectoryReader) -> dict[str, Any]:
    """Return what bounds the error of a guarded run.

    Args:
        reader: of the run's store.

    Returns:
        "proposals" judged, "largest_energy_error_eV" of any frame that was kept (None where none
        was judged), "energy_limit_eV" (None where energies are not judged),
        "shortest_proposal_frames", and "limits", what was calibrated, or None; empty for any
        other run.

    Raises:
        StoreDamagedError: if the file with the counts is missing or is not what was written.
    """
    header, commit = reader.header, reader.commit
    if header.config.get("mode") != "guarded":
        return {}
    path = reader.path / JOURNAL / commit.restart_file
    saved: Mapping[str, Tensor]
    saved = restart_file.read(path, commit.restart_sha256, header.molecule).propagator
    saved = taken_from("propagator", saved) or saved  # behind a bath
    if "segments" not in saved:
        return {}
    limits = header.notes.get("guard_limits")
    errors = [float(value) for name, value in saved.items() if name.endswith(".largest_eV")]
    largest = [error for error in errors if not math.isnan(error)]
    limit = limits["energy_eV"] if limits else header.config.get("energy_limit_eV")
    shortest = saved.get("horizon.shortest")
    return {
        "proposals": int(saved["segments"]),
        "largest_energy_error_eV": max(largest, default=None),
        "energy_limit_eV": limit if errors else None,
        "shortest_proposal_frames": None if shortest is None else int(shortest),
        "limits": limits,
    }


def guard_sentences(facts: Mapping[str, Any]) -> list[str]:
    """Say what is bounded.

    Args:
        facts: from `guard_facts`, of a guarded run.
    """
    largest, limit = facts["largest_energy_error_eV"], facts["energy_limit_eV"]
    if largest is None and limit is not None:
        said = [f"of {facts['proposals']} proposals nothing was kept whose energy was judged"]
    elif largest is None:
        said = [f"energies of {facts['proposals']} proposals were not judged: nothing bounds them"]
    else:
        said = [
            f"largest change of the total energy over a proposal that was kept: {largest:.3g} eV "
            f"(limit {limit:.3g} eV, {facts['proposals']} proposals judged)"
        ]
    return said + (limit_sentences(facts["limits"]) if facts["limits"] else [])
