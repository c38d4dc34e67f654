"""The part of a report that is about costs: the run, classical rivals, and the training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from egno_md.bundle import Bundle
from egno_md.trajectories import report_page as html
from egno_md.trajectories.acceleration_facts import cpu_s_of_workers
from egno_md.trajectories.classical_baselines import classical_baselines
from egno_md.trajectories.cost_ledger import (
    ClassicalCost,
    CostLedger,
    RunKind,
    cost_ledger,
    duration,
)
from egno_md.trajectories.report_figures import cost_figure
from egno_md.trajectories.run_record import RunRecord

#: Modes whose picoseconds are judged in a way of their own.
_KINDS: Mapping[str, RunKind] = {"metropolised": "proposals", "parareal": "parareal"}


def ledger_of(
    record: RunRecord,
    bundle: Bundle | None,
    cheap: Bundle | None,
    cost: ClassicalCost | None,
    others: Sequence[Bundle] = (),
    guard: Bundle | None = None,
) -> CostLedger | None:
    """Set the costs of a run beside classical ones.

    Args:
        record: the run.
        bundle: of the learned propagator, or None.
        cheap: of the potential that proposes or is the inner one, or None.
        cost: measured, or None.
        others: of the networks that gave a second opinion.
        guard: of the potential that the cost is of, or None.

    Returns:
        The ledger; None where the cost or the time of the run is not known.
    """
    replica_ps = record.length_ps * record.n_replicas
    # A NaN is not positive either.
    if cost is None or not (replica_ps > 0 and record.wall_s > 0 and record.cpu_s > 0):
        return None
    spent = training_costs(record.config, bundle, cheap, others)
    known = [seconds for seconds in spent.values() if seconds is not None]
    per_step = 1e-3 * cost.timestep_fs
    return cost_ledger(
        record.wall_s,
        record.cpu_s + cpu_s_of_workers(record.acceleration),
        replica_ps,
        cost,
        sum(known, 0.0) if len(known) == len(spent) else None,
        kind=_KINDS.get(record.mode, "dynamics"),
        n_workers=int(record.config.get("n_workers", 1)),
        baselines=classical_baselines(
            cost.wall_s_per_ps * per_step, cost.cpu_s_per_ps * per_step, record.molecule
        ),
        training=spent,
        trusted=guard is None or guard.card.kind != "distance",
    )


def training_costs(
    config: Mapping[str, Any],
    bundle: Bundle | None,
    cheap: Bundle | None,
    others: Sequence[Bundle] = (),
) -> dict[str, float | None]:
    """Say what was trained to make a run cheaper, and for how many CPU seconds.

    The potential of the run is not counted: the classical rivals need it, too.

    Args:
        config: settings of the run.
        bundle: of the learned propagator, or None.
        cheap: of the potential that proposes or is the inner one, or None.
        others: of the networks that gave a second opinion.

    Returns:
        Name of a model -> seconds, data included where its card says so, None where it says
        nothing; empty where nothing was trained.
    """
    helper = config.get("inner_potential") or config.get("proposal")
    if helper is None:
        if config.get("mode") == "classical":
            return {}
        name = config.get("propagator", "propagator") if bundle is None else bundle.name
        return {str(name): _spent(bundle)} | {other.name: _spent(other) for other in others}
    # A force field, or the potential of the run once more.
    if (":" in str(helper) and cheap is None) or helper == config.get("guard"):
        return {}
    return {str(helper) if cheap is None else cheap.name: _spent(cheap)}


def _spent(bundle: Bundle | None) -> float | None:
    """CPU seconds of a training and of the data made for it, as the card has them."""
    card = {} if bundle is None else bundle.card.training
    training, data = card.get("cpu_seconds"), card.get("sampling_cpu_seconds")
    if not isinstance(training, int | float):
        return None
    return float(training) + (float(data) if isinstance(data, int | float) else 0.0)


def cost_section(record: RunRecord, ledger: CostLedger | None) -> list[str]:
    """What the run cost beside classical integration."""
    parts = [html.heading("What it cost")]
    if record.effective is not None:
        said = record.effective.sentence(record.cpu_s)
        parts.append(html.paragraph(f"{said[:1].upper()}{said[1:]}."))
    if ledger is None:
        return [*parts, html.paragraph(_unmeasured(record))]
    c = ledger.classical
    rows = [
        ("this run", f"{ledger.run_wall_s_per_ps:.3g}", f"{ledger.run_cpu_s_per_ps:.3g}"),
        (
            f"classical, {c.potential}, {c.timestep_fs:g} fs",
            f"{c.wall_s_per_ps:.3g}",
            f"{c.cpu_s_per_ps:.3g}",
        ),
        ("classical over run", f"{ledger.wall_speedup:.2f}", f"{ledger.cpu_speedup:.2f}"),
    ]
    head = ("per simulated ps of one replica", "wall-clock (s)", "CPU (s)")
    parts += [html.paragraph(ledger.sentence()), html.table(head, rows, (1, 2))]
    parts += _rivals(ledger)
    if ledger.training_cpu_s and ledger.break_even_ps is not None and ledger.judged_by == "cpu":
        svg = cost_figure(
            ledger.run_cpu_s_per_ps,
            c.cpu_s_per_ps,
            ledger.training_cpu_s,
            ledger.replica_ps,
            ledger.break_even_ps,
        )
        parts.append(html.picture(svg, _training(ledger)))
    else:
        parts.append(html.paragraph(_training(ledger)))
    replicas = "1 replica" if c.n_replicas == 1 else f"{c.n_replicas} replicas"
    note = (
        f"The classical price was measured after the run in the same process: {c.n_steps} steps "
        f"of velocity Verlet with {replicas} at once. The run's price has all "
        "of its frames in it: network, judges, fallback, thermostat and writing; not what came "
        f"before the first of them: {_before(record)}."
    )
    return [*parts, html.paragraph(note, soft=True)]


def _before(record: RunRecord) -> str:
    """What was done before the first frame, with its processor time where that was noted."""
    limits, tuning = record.guard.get("limits"), record.sampling.get("tuning")
    said = ["equilibration"]
    for name, facts in (("calibration of the judges", limits), ("tuning of the length", tuning)):
        if facts:
            spent = facts.get("cpu_s")
            said.append(name if spent is None else f"{name} ({spent:.0f} CPU-seconds)")
    return ", ".join(said)


def _unmeasured(record: RunRecord) -> str:
    """Why there is nothing to compare with, and what the run itself took."""
    text = "The price of classical integration was not measured in this run."
    if record.mode == "classical" and not record.config.get("inner_potential"):
        text = "This run is classical integration itself: there is nothing to compare it with."
    total_ps = record.length_ps * record.n_replicas
    if total_ps > 0 and record.wall_s > 0:
        text += (
            f" The run itself took {record.wall_s:.1f} s and {record.cpu_s:.1f} CPU-seconds "
            f"for {duration(total_ps)}."
        )
    return text


def _rivals(ledger: CostLedger) -> list[str]:
    """Classical rivals, computed and not run."""
    if not ledger.baselines:
        return []
    by_wall = ledger.judged_by == "wall"
    rows = []
    for rival in ledger.baselines:
        ratio = rival.cpu_s_per_ps / ledger.run_cpu_s_per_ps
        if by_wall:
            ratio = rival.wall_s_per_ps / ledger.run_wall_s_per_ps
        times = (f"{rival.wall_s_per_ps:.3g}", f"{rival.cpu_s_per_ps:.3g}", f"{ratio:.2f}")
        rows.append((rival.name, f"{rival.evaluations_per_ps:g}", *times))
    head = (
        *("classical rivals, computed and not run", "evaluations per ps", "wall-clock (s)"),
        *("CPU (s)", ("wall-clock" if by_wall else "CPU") + " time over the run's"),
    )
    text = (
        "Rivals were not run: their costs are evaluations per ps times the measured time of a "
        "velocity Verlet step, which has one evaluation, for the same replicas. Friction and fixed "
        "bonds are taken to cost nothing."
    )
    if ledger.kind == "proposals":
        text += (
            " They have a course of time, and this run has not: compare effective samples per "
            "CPU-second, which egno-md benchmark acceleration measures for all of them."
        )
    else:
        text += (
            " With the same potential and bath a ps of theirs holds about as many effective "
            "samples as one of the run, so effective samples per CPU-second have these ratios, "
            "too; heavy hydrogens and fixed bonds change that a little."
        )
        cheaper = [row[0] for row in rows if float(row[-1]) < 1.0]
        if cheaper:
            text += f" Cheaper than this run: {'; '.join(cheaper)}."
    return [html.table(head, rows, (1, 2, 3, 4)), html.paragraph(text, soft=True)]


def _training(ledger: CostLedger) -> str:
    """What was trained for the run, and for how long."""
    if not ledger.training:
        return "Nothing was trained to make this run cheaper."
    each = [
        f"a time not recorded ({name})" if spent is None else f"{spent:.0f} CPU-seconds ({name})"
        for name, spent in ledger.training.items()
    ]
    text = f"Training took, according to the bundle's card, {', '.join(each)}."
    if ledger.training_cpu_s is None:
        return text
    even = ledger.break_even_ps
    if even is None or math.isinf(even):
        workers = " with so many workers" if ledger.kind == "parareal" else ""
        return text + f" It is never paid back by runs of this kind{workers}."
    return text + f" It is paid back after {duration(even)} of all replicas together."
