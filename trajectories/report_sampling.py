"""The part of a report that is about Metropolised runs: their check and their section."""

from __future__ import annotations

from typing import Final

from egno_md.trajectories import report_page as html
from egno_md.trajectories.report_checks import Check, Mark
from egno_md.trajectories.run_record import RunRecord
from egno_md.trajectories.sampling_facts import effective_samples, sampling_sentences

#: Smallest share of proposals that must be accepted. Sampling is exact below it, too, but a chain
#: that hardly moves has seen little.
ACCEPTANCE_LIMIT: Final = 0.2


def acceptance_check(record: RunRecord) -> Check:
    """Ask whether the chain moved.

    Args:
        record: of a Metropolised run.
    """
    name, allowed = "Proposals were accepted", f"≥ {ACCEPTANCE_LIMIT:.0%}"
    facts = record.sampling
    if not facts or not facts["proposals"]:
        return Check(name, Mark.NOT_CHECKED, "", allowed, "The run has no proposals yet.")
    moves = facts["acceptance"] >= ACCEPTANCE_LIMIT and not facts.get("stuck")
    mark = Mark.PASS if moves else Mark.WARN
    note = f"Proposals of {facts['proposal_fs']:g} fs. Their error costs acceptance, not exactness."
    if facts.get("stuck"):
        note += f" Replica {facts['longest_replica']} was stuck for {facts['longest_row']} of them."
    return Check(name, mark, f"{facts['acceptance']:.1%}", allowed, note)


def sampling_section(record: RunRecord) -> list[str]:
    """What accept/reject did, and what the run is and is not.

    Args:
        record: any run.

    Returns:
        Pieces of HTML; none for a run that is not Metropolised.
    """
    facts = record.sampling
    if not facts:
        return []
    parts = [html.heading("What accept/reject did")]
    if not facts["proposals"]:
        return [*parts, html.paragraph("There were no proposals yet.")]
    sentences = [f"{s[:1].upper()}{s[1:]}." for s in sampling_sentences(facts)]
    n = effective_samples(record.potential_energies[:, 1:])
    if n == n:
        # The energy forgets sooner than shapes do: its rate is no rate of a run too short for them.
        known = record.cpu_s > 0 and not (record.effective and record.effective.too_short)
        rate = f", {n / record.cpu_s:.3g} per CPU-second" if known else ""
        sentences.append(f"{n:.0f} effective samples of the potential energy{rate}.")
    parts.append(html.paragraph(" ".join(sentences)))
    target = record.config.get("guard")
    text = (
        f"Frames are samples of the canonical distribution of {target}, whatever the error of "
        "what proposed them. They are no course of events: a rejected proposal repeats the frame "
        "before with its velocities turned back, and times count proposals."
    )
    parts.append(html.paragraph(text))
    tuning = facts.get("tuning")
    if tuning:
        rows = [
            (
                f"{t['proposal_fs']:g}",
                f"{t['acceptance']:.1%}",
                f"{t['cpu_s_per_proposal'] * 1e3:.3g}",
                f"{t['inefficiency']:.3g}",
                f"{t['effective_per_cpu_s']:.3g} ± {100 * t['relative_error']:.0f} %",
            )
            for t in tuning["trials"]
        ]
        head = (
            "proposal (fs)",
            "accepted",
            "CPU time of one (ms)",
            "proposals per independent sample",
            "effective samples per CPU-second",
        )
        label = f"The length was tuned in {tuning['cpu_s']:.0f} CPU-seconds before the run and kept"
        parts.append(html.folded(label, html.table(head, rows, (0, 1, 2, 3))))
    return parts
