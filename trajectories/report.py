"""One HTML file that says how far a trajectory can be trusted, and what nobody checked."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from egno_md.bundle import Bundle
from egno_md.segment import MadeBy
from egno_md.trajectories import report_page as html
from egno_md.trajectories import report_sections as sections
from egno_md.trajectories.comparison import Comparison, compare, temperature_mismatch
from egno_md.trajectories.cost_ledger import ClassicalCost, CostLedger, duration
from egno_md.trajectories.report_acceleration import acceleration_section
from egno_md.trajectories.report_checks import Check, Mark, all_checks
from egno_md.trajectories.report_costs import cost_section, ledger_of
from egno_md.trajectories.report_sampling import acceptance_check, sampling_section
from egno_md.trajectories.report_structure import structure_section
from egno_md.trajectories.run_record import RunRecord, in_percent, read_run

#: Floors and bootstrap errors draw blocks from here: the same store gives the same report.
_SEED = 20_240


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """What a report says, for the terminal and for run.json.

    Attributes:
        path: the HTML file.
        mark: WARN if any check warns, else PASS if any passed, else NOT CHECKED.
        headline: the verdict in a sentence.
        checks: every question with its answer.
        ledger: costs, or None when classical integration was not timed.
    """

    path: Path
    mark: Mark
    headline: str
    checks: tuple[Check, ...]
    ledger: CostLedger | None


def write_report(
    store_path: str | os.PathLike[str],
    html_path: str | os.PathLike[str],
    *,
    bundle: Bundle | None = None,
    guard: Bundle | None = None,
    cheap: Bundle | None = None,
    others: Sequence[Bundle] = (),
    cost: ClassicalCost | None = None,
) -> ReportSummary:
    """Read a store and write its report.

    Args:
        store_path: folder of the store, finished or not.
        html_path: file to write.
        bundle: of the learned propagator; its reference statistics are used. Without any,
            those of the guard are.
        guard: of the potential behind the judges.
        cheap: of the potential that proposes or is the inner one of two time steps, or None.
        others: of the networks that gave a second opinion.
        cost: from `measure_classical_cost`, or None.

    Returns:
        What the report says.

    Raises:
        FileNotFoundError: if there is no store.
        ValueError: if it is no store or is damaged.
        OSError: if the file cannot be written.
    """
    reference = next((b.reference for b in (bundle, guard) if b is not None and b.reference), None)
    record = read_run(os.fspath(store_path), reference)
    return report_on(
        record, html_path, bundle=bundle, guard=guard, cheap=cheap, others=others, cost=cost
    )


def report_on(
    record: RunRecord,
    html_path: str | os.PathLike[str],
    *,
    bundle: Bundle | None = None,
    guard: Bundle | None = None,
    cheap: Bundle | None = None,
    others: Sequence[Bundle] = (),
    cost: ClassicalCost | None = None,
) -> ReportSummary:
    """Write the report of a run that is already reduced to its record.

    Args:
        record: made with the same reference as `write_report` would choose.
        html_path: file to write.
        bundle: of the learned propagator, or None.
        guard: of the potential behind the judges, or None.
        cheap: of the potential that proposes or is the inner one of two time steps, or None.
        others: of the networks that gave a second opinion.
        cost: from `measure_classical_cost`, or None.

    Returns:
        What the report says.

    Raises:
        OSError: if the file cannot be written.
    """
    reference = next((b.reference for b in (bundle, guard) if b is not None and b.reference), None)
    record, comparison = _compared(record, reference)
    checks = all_checks(record, comparison, reference, bundle)
    if record.mode == "metropolised":
        # In the place of the share of the network, which need not propose.
        checks = (acceptance_check(record), *checks[1:])
    ledger = ledger_of(record, bundle, cheap, cost, others, guard)
    mark, sentences = judge(record, checks, ledger)
    parts = [
        html.title(_title(record), _subtitle(record)),
        html.verdict(sentences, mark),
        html.numbers(_numbers(record, ledger)),
        html.heading("Questions and answers"),
        html.check_table(checks),
        *sections.warnings_section(record),
        *sections.makers_section(record),
        *_what_happened(record),
        *sections.thermodynamics_section(record),
        *structure_section(record, comparison, reference),
        *cost_section(record, ledger),
        *sections.provenance_section(record, bundle, guard, cheap, others),
    ]
    path = Path(html_path)
    _write(path, html.page(_title(record), parts))
    return ReportSummary(path, mark, sentences[0], checks, ledger)


def _compared(
    record: RunRecord, reference: Mapping[str, Tensor] | None
) -> tuple[RunRecord, Comparison | None]:
    """Compare where that makes sense; else the record says why not."""
    if not reference or record.statistics is None or record.reference_problem is not None:
        return record, None
    kelvin = record.target_K
    if kelvin is None:
        kelvin = round(float(record.statistics.get("temperature_mean_K", math.nan)), 1)
    problem = temperature_mismatch(reference, kelvin)
    if problem is not None:
        return replace(record, reference_problem=problem), None
    generator = torch.Generator().manual_seed(_SEED)
    return record, compare(record.statistics, reference, record.molecule, generator)


def judge(
    record: RunRecord, checks: Sequence[Check], ledger: CostLedger | None
) -> tuple[Mark, list[str]]:
    """Turn answers into a verdict.

    Args:
        record: the run.
        checks: its checks.
        ledger: its costs, or None.

    Returns:
        The mark of the whole, and sentences: the verdict, what warns, what was not checked,
        what no check here can see, what it cost.
    """
    by_mark = {mark: [c for c in checks if c.mark is mark] for mark in Mark}
    passed, warned, open_ = by_mark[Mark.PASS], by_mark[Mark.WARN], by_mark[Mark.NOT_CHECKED]
    asked = len(passed) + len(warned)
    if warned:
        mark = Mark.WARN
        first = f"Do not trust this run yet: {len(warned)} of {asked} checks warn."
    elif passed:
        mark = Mark.PASS
        first = f"All {asked} checks that could be made passed."
    else:
        mark, first = Mark.NOT_CHECKED, "Nothing could be checked."
    sentences = [first]
    if warned:
        sentences.append("Warnings: " + "; ".join(f"{c.name} ({c.found})" for c in warned) + ".")
    if open_:
        sentences.append("Not checked: " + "; ".join(c.name for c in open_) + ".")
    sentences.append(_blind_spots(record))
    if ledger is not None:
        sentences.append(ledger.sentence())
    return mark, sentences


def _blind_spots(record: RunRecord) -> str:
    text = (
        f"No check here sees motions slower than the {record.length_ps:.3g} ps that each replica "
        "covers, nor the error of the reference potential against nature."
    )
    if record.mode == "metropolised":
        text += " Frames are samples: rates, spectra and diffusion cannot be read from them."
    if record.mode == "guarded":
        text += " Kinetics across a rejected segment are the integrator's, not the network's."
    return text


def _title(record: RunRecord) -> str:
    return f"{record.source}: how far can it be trusted?"


def _what_happened(record: RunRecord) -> list[str]:
    """The section that is about the mode of the run."""
    return (
        sampling_section(record) or acceleration_section(record) or sections.guard_section(record)
    )


def _subtitle(record: RunRecord) -> str:
    target = "constant energy" if record.target_K is None else f"{record.target_K:g} K"
    molecule = sections.formula(record)
    nested = record.acceleration is not None and record.mode == "classical"
    mode = "classical run with two time steps" if nested else f"{record.mode} run"
    return f"{molecule} · {mode} · {target} · {duration(record.length_ps)} per replica"


def _numbers(record: RunRecord, ledger: CostLedger | None) -> list[tuple[str, str]]:
    total = record.length_ps * record.n_replicas
    n = record.n_replicas
    found = [(duration(total), f"simulated in {n} replica{'s' if n != 1 else ''}")]
    share = record.share(MadeBy.NETWORK)
    if record.mode == "metropolised" and record.sampling:
        found.append((f"{record.sampling['acceptance']:.1%}", "of the proposals accepted"))
    elif share == share and record.mode not in ("classical", "parareal"):
        found.append((in_percent(share), "of the frames by the network"))
        found.append((str(len(record.events)), "segments rejected"))
    if record.wall_s > 0:
        found.append((f"{record.wall_s:.1f} s", "wall-clock time"))
    if ledger is not None:
        which = "wall-clock" if ledger.judged_by == "wall" else "CPU"
        digits = 1 if ledger.speedup >= 1.0 else 2
        found.append((f"{ledger.speedup:.{digits}f} ×", f"classical {which} time over the run's"))
    return found


def _write(path: Path, text: str) -> None:
    """Write beside and rename, so that a full disk leaves no half report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
