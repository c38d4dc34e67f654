"""The part of a report that is about two time steps, or about parareal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from egno_md.trajectories import report_page as html
from egno_md.trajectories.run_record import RunRecord


def acceleration_section(record: RunRecord) -> list[str]:
    """What a combination of a cheap and a trusted model did.

    Args:
        record: any run.

    Returns:
        Pieces of HTML; none for a run without such a combination.
    """
    found = record.acceleration
    if found is None:
        return []
    nested = found.kind == "multiple_time_step"
    parts = [html.heading("What two time steps did" if nested else "What parareal did")]
    if not found.facts:
        text = "The version that made this run did not keep what it counted."
        return [*parts, html.paragraph(text)]
    more = _two_time_steps if nested else _parareal
    return [*parts, *more(record, found.facts)]


def _two_time_steps(record: RunRecord, facts: Mapping[str, Any]) -> list[str]:
    """Steps, evaluations and resonance."""
    accurate, cheap = (str(record.config.get(key)) for key in ("guard", "inner_potential"))
    outer_fs, inner_fs = facts["outer_step_fs"], facts["inner_step_fs"]
    text = (
        f"The trajectory and the energies are those of {accurate}, to second order in its step: "
        f"the difference between it and {cheap} kicked every {outer_fs:g} fs, and {cheap} alone "
        f"moved the atoms in steps of {inner_fs:g} fs between. No network made frames and no "
        "judge rejected any."
    )
    steps = round(1e3 * record.length_ps / inner_fs)
    rows = [
        (accurate, f"{outer_fs:g}", str(facts["outer"])),
        (cheap, f"{inner_fs:g}", str(facts["inner"])),
        (f"{accurate}, to find its fastest vibration", "", str(facts["probing_outer"])),
        (f"{cheap}, to find its fastest vibration", "", str(facts["probing"])),
        (f"{accurate} with one time step, for comparison", f"{inner_fs:g}", str(steps + 1)),
    ]
    head = ("potential", "step (fs)", "evaluations of the forces of all replicas")
    parts = [html.paragraph(text), html.table(head, rows, (1, 2))]
    period = facts["fastest_period_fs"]
    if period is None or not math.isfinite(period):
        return [*parts, html.paragraph("No fastest vibration was found to compare the step with.")]
    share = outer_fs / period
    whose = accurate if facts["fastest_is_outer"] else cheap
    text = (
        f"The fastest vibration of both, that of {whose}, has a period of {period:.1f} fs at the "
        f"first frame of the first replica (it varies along a trajectory), and the outer step is "
        f"{share:.2f} of it. The first resonance is at 0.5; long runs at constant energy drift "
        "from about 0.33 on, and up to 0.3 is safer."
    )
    return [*parts, html.paragraph(text)]


def _parareal(record: RunRecord, facts: Mapping[str, Any]) -> list[str]:
    """Rounds, changes and the speed-up."""
    tolerance, n = record.config.get("tolerance_A"), max(1, facts["windows"])
    text = (
        "The network only guessed ahead: every frame is the trusted propagator's, to "
        f"{tolerance} Å within one segment. {facts['slabs']} slabs of time were made, in "
        f"{facts['windows']} windows with {facts['iterations'] / n:.1f} rounds each."
    )
    if facts["refusals"]:
        text += (
            f" The guesses were too poor to help in {facts['refusals']} segments, whose rest, "
            f"{facts['serial_slabs']} slabs, was made in series."
        )
    parts = [html.paragraph(text)]
    if rows := _rounds(facts["largest_changes_A"]):
        head = ("round", "windows", "largest change of a position (Å), median", "of all windows")
        parts.append(html.table(head, rows, (0, 1, 2, 3)))
        text = (
            f"A window ends when its change is below {tolerance} Å. The change of the first round "
            "is the error of the network's guesses."
        )
        parts.append(html.paragraph(text, soft=True))
    if (speed_up := facts["speed_up"]) == speed_up:
        parts += _speed_up(facts)
    return parts


def _rounds(changes_A: list[list[float]]) -> list[tuple[str, str, str, str]]:
    """The changes of each round, over the windows that had it."""
    longest = max((len(window) for window in changes_A), default=0)
    rows = []
    for k in range(longest):
        here = [window[k] for window in changes_A if len(window) > k]
        rows.append((str(k + 1), str(len(here)), f"{median(here):.1e}", f"{max(here):.1e}"))
    return rows


def _speed_up(facts: Mapping[str, Any]) -> list[str]:
    """What the workers gained in wall-clock time, and what more of them would."""
    workers = facts["n_workers"]
    rows = [(f"{workers}, measured", f"{facts['speed_up']:.2f}")]
    rows += [
        (f"{count}, projected", f"{factor:.2f}")
        for count, factor in facts["projected"].items()
        if factor == factor
    ]
    text = (
        f"Processor time was {facts['work_ratio']:.1f} times that of the slabs one after the "
        "other: it is spent to save wall-clock time. Speed-ups are against the trusted propagator "
        "in series; projected ones need so many free cores."
    )
    if facts["start_s"] >= 1.0:
        text += f" The first guess, with compiling, took {facts['start_s']:.0f} s, not counted."
    return [html.table(("workers", "speed-up"), rows, (1,)), html.paragraph(text)]
