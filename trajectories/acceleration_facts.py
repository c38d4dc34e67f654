"""What two time steps or parareal did in a run, read from the run's store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from egno_md.propagators.parareal_report import PararealReport
from egno_md.propagators.restart import taken_from
from egno_md.trajectories import restart as restart_file
from egno_md.trajectories.store_format import JOURNAL
from egno_md.trajectories.store_reader import TrajectoryReader

#: Numbers of workers that speed-ups of parareal are projected for.
_WORKERS = (2, 16, 64, 256)


@dataclass(frozen=True, slots=True)
class Acceleration:
    """What a combined propagator did, earlier sittings included.

    Attributes:
        kind: "multiple_time_step" or "parareal", its key in run.json.
        facts: the fields there; empty where the version that made the run kept none.
        lines: the same for people.
    """

    kind: str
    facts: Mapping[str, Any]
    lines: tuple[str, ...] = ()


def acceleration_of(reader: TrajectoryReader) -> Acceleration | None:
    """Return what two time steps or parareal did.

    Args:
        reader: of the run's store.

    Returns:
        The facts; None for any other run.

    Raises:
        StoreDamagedError: if the file with the counts is missing or is not what was written.
    """
    header, commit = reader.header, reader.commit
    mode, config = header.config.get("mode"), header.config
    nested = mode == "classical" and config.get("inner_potential") is not None
    if not nested and mode != "parareal":
        return None
    path = reader.path / JOURNAL / commit.restart_file
    saved: Mapping[str, Tensor]
    saved = restart_file.read(path, commit.restart_sha256, header.molecule).propagator
    if nested:
        return _two_time_steps(config, saved)
    return _parareal(config, taken_from("propagator", saved) or saved)  # behind a bath


def _two_time_steps(config: Mapping[str, Any], saved: Mapping[str, Tensor]) -> Acceleration:
    if "evaluations" not in saved:
        return Acceleration("multiple_time_step", {})
    outer, inner = saved["evaluations"].tolist()
    found = {
        name: float(value)
        for name, value in taken_from("vibration", saved).items()
        if value.numel() == 1
    }
    period = found.get("period_fs")
    facts = {
        "outer": outer,
        "inner": inner,
        "probing": int(found.get("n_evaluations", 0)),
        "probing_outer": int(found.get("n_evaluations_outer", 0)),
        "fastest_period_fs": period,
        "fastest_is_outer": bool(found.get("of_outer", False)),
        "outer_step_fs": config["outer_step_fs"],
        "inner_step_fs": config["timestep_fs"],
    }
    said = (
        f"force evaluations: {outer} accurate, {inner} cheap, in steps of "
        f"{facts['outer_step_fs']:g} and {facts['inner_step_fs']:g} fs"
    )
    if period is not None:
        said += f"; fastest vibration {period:.1f} fs"
    return Acceleration("multiple_time_step", facts, (said,))


def _parareal(config: Mapping[str, Any], saved: Mapping[str, Tensor]) -> Acceleration:
    if "report.counts" not in saved:
        return Acceleration("parareal", {})
    report = PararealReport.from_tensors(taken_from("report", saved))
    facts = {
        "slabs": report.slabs,
        "serial_slabs": report.serial_slabs,
        "windows": len(report.windows),
        "iterations": report.iterations,
        "largest_changes_A": [list(window.changes_A) for window in report.windows],
        "fine_solves": report.fine_solves,
        "coarse_solves": report.coarse_solves,
        "refusals": report.refusals,
        "wall_s": report.wall_s,
        "start_s": report.start_s,
        "fine_cpu_s": report.fine_cpu_s,
        "coarse_cpu_s": report.coarse_cpu_s,
        "remote_cpu_s": report.remote_cpu_s,
        "fine_slab_cpu_s": report.fine_slab_cpu_s,
        "coarse_slab_cpu_s": report.coarse_slab_cpu_s,
        "speed_up": report.wall_speed_up,
        "work_ratio": report.work_ratio,
        "projected": {str(p): report.projected(p) for p in _WORKERS},
        "n_workers": config.get("n_workers", 1),
    }
    return Acceleration("parareal", facts, tuple(report.text().splitlines()))


def cpu_s_of_workers(acceleration: Acceleration | None) -> float:
    """Processor time that a run spent in processes of its own, which its store does not count.

    Args:
        acceleration: from `acceleration_of`.
    """
    return 0.0 if acceleration is None else float(acceleration.facts.get("remote_cpu_s", 0.0))
