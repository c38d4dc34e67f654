"""What accept/reject did in a run, read from its store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from egno_md.propagators.metropolis_counts import MetropolisCounts
from egno_md.trajectories import restart as restart_file
from egno_md.trajectories.inefficiency import statistical_inefficiency
from egno_md.trajectories.store_format import JOURNAL
from egno_md.trajectories.store_reader import TrajectoryReader


def sampling_facts(reader: TrajectoryReader) -> dict[str, Any]:
    """Return acceptance, counts, proposal length and its tuning of a Metropolised run.

    Args:
        reader: of the run's store.

    Returns:
        The fields of `MetropolisStatistics`, the acceptance, and "tuning", None where the length
        was given; empty for any other run.

    Raises:
        StoreDamagedError: if the file with the counts is missing or is not what was written.
    """
    header, commit = reader.header, reader.commit
    if header.config.get("mode") != "metropolised":
        return {}
    path = reader.path / JOURNAL / commit.restart_file
    saved = restart_file.read(path, commit.restart_sha256, header.molecule).propagator
    counts = MetropolisCounts()
    counts.restore(saved)
    facts = counts.statistics(header.frame_interval_fs).to_json()
    return {**facts, "tuning": header.notes.get("tuning")}


def effective_samples(potential_energies: Tensor) -> float:
    """Samples of the potential energy that are independent, all replicas together.

    Args:
        potential_energies: `(n_replicas, n_frames)`, eV, the start left out.

    Returns:
        N / g; NaN without frames.
    """
    if potential_energies.shape[1] == 0:
        return math.nan
    return potential_energies.numel() / float(statistical_inefficiency(potential_energies))


def sampling_sentences(facts: Mapping[str, Any]) -> list[str]:
    """Say how sampling went.

    Args:
        facts: from `sampling_facts`, of a run with proposals.
    """
    lost = facts["failed"] + facts["refused"]
    said = [
        f"accepted {facts['acceptance']:.1%} of {facts['proposals']} proposals of "
        f"{facts['proposal_fs']:g} fs, with {facts['target_evaluations']} energies of the target"
    ]
    if lost:
        said.append(
            f"rejected because not finite {facts['failed']}, because the target gave no energy "
            f"{facts['refused']}"
        )
    said.append(
        f"mean of exp(-dH/kT) {facts['creutz_average']:.3f} ± {facts['creutz_error']:.3f} "
        "(1 in equilibrium)"
    )
    if facts.get("stuck"):
        said.append(
            f"replica {facts['longest_replica']} had {facts['longest_row']} proposals in a row "
            "rejected, far more than chance: where it was, the proposals are much worse than "
            "elsewhere. The distribution is right in the end, but this run holds fewer independent "
            "samples; train the proposal there, or make proposals shorter"
        )
    return said
