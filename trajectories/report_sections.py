"""The sections of a report, each from a run's record to a few pieces of HTML."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from egno_md.bundle import Bundle
from egno_md.propagators.energy_frames import REMEMBERED, TOLERATED
from egno_md.segment import Event, MadeBy
from egno_md.trajectories import report_page as html
from egno_md.trajectories.guard_facts import guard_sentences
from egno_md.trajectories.report_checks import (
    ELEMENT_LIMIT,
    mean_temperatures,
)
from egno_md.trajectories.report_figures import (
    element_figure,
    energy_figure,
    makers_figure,
    temperature_figure,
)
from egno_md.trajectories.run_record import RunRecord, in_percent
from egno_md.trajectories.svg_picture import INTEGRATOR_COLOUR, NETWORK_COLOUR

#: Events written out one by one.
_MOST_EVENTS = 300


def warnings_section(record: RunRecord) -> list[str]:
    """What was warned of when the run was made; nothing where there was no warning."""
    if not record.warnings:
        return []
    said = [html.paragraph(f"{text[:1].upper()}{text[1:]}.") for text in record.warnings]
    return [html.heading("What the run warned of"), *said]


def makers_section(record: RunRecord) -> list[str]:
    """What made the frames."""
    parts = [html.heading("What made the frames")]
    if record.n_frames < 2:
        return [*parts, html.paragraph("The run has no frames after its start.")]
    network, integrator = record.share(MadeBy.NETWORK), record.share(MadeBy.INTEGRATOR)
    caption = f"Network {in_percent(network)}, integrator {in_percent(integrator)} of the frames."
    if record.n_replicas > 64:
        caption += f" The first 64 of {record.n_replicas} replicas are drawn."
    keys = [(NETWORK_COLOUR, "network"), (INTEGRATOR_COLOUR, "integrator")]
    svg = makers_figure(record.made_by, record.length_ps)
    return [*parts, html.picture(svg, caption, keys)]


def guard_section(record: RunRecord) -> list[str]:
    """What the guard did and why."""
    parts = [html.heading("What the guard did")]
    if record.mode == "classical":
        return [*parts, html.paragraph("A classical run has no guard.")]
    if record.mode == "surrogate":
        text = (
            "This run had no guard: every frame is the network's word alone. No judge looked at "
            "its energies, bonds or temperature while it ran, and nothing could have stopped it."
        )
        return [*parts, html.paragraph(text)]
    if record.guard:
        said = [f"{s[:1].upper()}{s[1:]}." for s in guard_sentences(record.guard)]
        parts.append(html.paragraph(" ".join(said) + " " + _what_is_bounded(record)))
    if limits := _limits(record.config):
        asked = " as asked for, before they were calibrated" if record.guard.get("limits") else ""
        parts.append(html.paragraph(f"Judges{asked}: {limits}.", soft=True))
    if not record.events:
        return [*parts, html.paragraph("No segment was rejected.")]
    rows = [
        (judge, str(count), first, example)
        for (judge, count, first, example) in reason_rows(record.events)
    ]
    kept = sum(e.n_accepted for e in record.events)
    made = sum(e.n_frames for e in record.events)
    touched = len({e.replica for e in record.events})
    text = (
        f"{len(record.events)} segments were rejected, in {touched} of {record.n_replicas} "
        f"replicas; {kept} of their {made} frames came before the fault and were kept. "
        "The integrator went on from there each time."
    )
    parts += [
        html.paragraph(text),
        html.table(("judge", "times", "first at", "reason (an example)"), rows, (1,)),
    ]
    shown = record.events[:_MOST_EVENTS]
    each = [
        (f"{e.time_fs:.1f}", str(e.replica), e.judge, f"{e.n_accepted} of {e.n_frames}", e.reason)
        for e in shown
    ]
    head = ("time (fs)", "replica", "judge", "frames kept", "reason")
    label = f"All {len(record.events)} rejections"
    if len(shown) < len(record.events):
        label = f"The first {len(shown)} of {len(record.events)} rejections"
    return [*parts, html.folded(label, html.table(head, each, (0, 1)))]


def _what_is_bounded(record: RunRecord) -> str:
    """What the numbers of a guard mean, in plain words."""
    safe, every = record.share(MadeBy.INTEGRATOR), record.config.get("energy_every", 1)
    span = "one segment" if every == 1 else f"{every} segments in a row"
    text = f"A proposal is {span} of the network. "
    if record.guard["largest_energy_error_eV"] is not None:
        asked = "at the end of each, and of the frames before where that failed"
        frames = record.config.get("energy_frames")
        if frames == "all":
            asked = "for every frame"
        elif frames == "auto":
            asked = (
                f"for every frame of the first {REMEMBERED} proposals and whenever more than "
                f"{in_percent(TOLERATED)} of the latest {REMEMBERED} were rejected, else {asked}"
            )
        text += (
            f"Energies were asked {asked}; the bound is for one proposal, and errors of many may "
            "add up. "
        )
    text += f"The integrator with the trusted potential made {in_percent(safe)} of the frames"
    shortest = record.guard["shortest_proposal_frames"]
    if record.config.get("recover_after") is not None and shortest is not None:
        text += f"; after rejections proposals were as short as {shortest} frames"
    return text + "."


def _limits(config: Mapping[str, Any]) -> str:
    """The judges' limits, as far as the settings of the run name them."""
    texts = {
        "bond_limit_A": "bond lengths within {} Å of their means",
        "contact_factor": "unbonded atoms at least {} of their covalent radii apart",
        "temperature_alarm_rate": "kinetic temperatures that equilibrium shows in {} of frames",
        "energy_limit_eV": "total energy of a segment within {} eV of its start",
    }
    if config.get("other_networks"):
        texts["disagreement_limit_A"] = "atoms within {} Å of where other networks put them"
    said = [
        text.format(f"{config[key]:g}")
        for key, text in texts.items()
        if isinstance(config.get(key), int | float)
    ]
    return "; ".join(said)


def reason_rows(events: Sequence[Event]) -> list[tuple[str, int, str, str]]:
    """Put reasons together that differ only in their numbers.

    Args:
        events: what the guard did.

    Returns:
        Judge, how often, time of the first, and its reason; the most frequent first.
    """

    def kind(event: Event) -> tuple[str, str]:
        return event.judge, re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "#", event.reason)

    counts = Counter(kind(e) for e in events)
    first: dict[tuple[str, str], Event] = {}
    for event in events:
        first.setdefault(kind(event), event)
    return [
        (key[0], count, f"{first[key].time_fs * 1e-3:.3f} ps", first[key].reason)
        for key, count in counts.most_common()
    ]


def thermodynamics_section(record: RunRecord) -> list[str]:
    """Energy and temperature over time, and equipartition."""
    parts = [html.heading("Energy and temperature")]
    means = mean_temperatures(record)
    if not means:
        return [*parts, html.paragraph("The run has no frames after its start.")]
    times_ps = (record.times_fs - record.times_fs[0]) * 1e-3
    after = slice(1, None)
    parts.append(
        html.picture(
            temperature_figure(
                times_ps[after], record.total_temperature[:, after], record.target_K
            ),
            f"Kinetic temperature with {record.degrees_of_freedom} degrees of freedom. "
            f"Mean {means[0].kelvin:.1f} K.",
        )
    )
    target = means[0].kelvin if record.target_K is None else record.target_K
    if target > 0:
        svg = element_figure(
            [m.label for m in means[1:]],
            [m.kelvin for m in means[1:]],
            [m.error for m in means[1:]],
            target,
            ELEMENT_LIMIT,
        )
        caption = (
            "Equipartition: every element must have the same temperature. A network that "
            "freezes or heats one kind of atom shows here, even when the mean is right."
        )
        parts.append(html.picture(svg, caption))
    svg = energy_figure(
        times_ps[after],
        record.potential_energies[:, after],
        record.kinetic_energies[:, after],
        record.molecule.n_atoms,
    )
    return [*parts, html.picture(svg, _energy_caption(record))]


def _energy_caption(record: RunRecord) -> str:
    known = torch.isfinite(record.potential_energies[:, 1:])
    share = float(known.double().mean())
    if share == 0.0:
        return (
            "Kinetic energy, mean of the replicas. No potential energy was evaluated, "
            "so the total energy is not known."
        )
    text = (
        "Mean of the replicas, each from its own mean. Potential and total energy are from the "
        f"{share:.1%} of the frames whose potential energy was evaluated, without times at which "
        "that was done for few replicas."
    )
    if record.target_K is None:
        drift = energy_drift(record)
        if drift is not None:
            text += f" Drift of the total energy: {drift:.3g} meV/atom/ps."
    else:
        text += " A thermostat exchanges energy, so the total need not be constant."
    return text


def energy_drift(record: RunRecord) -> float | None:
    """Slope of the total energy, averaged over replicas, meV/atom/ps; None if unknown."""
    total = record.potential_energies + record.kinetic_energies
    slopes = []
    for energies in total:
        known = torch.isfinite(energies)
        if int(known.sum()) < 3:
            continue
        t = record.times_fs[known] * 1e-3
        t = t - t.mean()
        e = energies[known] - energies[known].mean()
        slopes.append(float((t * e).sum() / t.square().sum()))
    if not slopes:
        return None
    return 1000.0 * sum(slopes) / len(slopes) / record.molecule.n_atoms


def provenance_section(
    record: RunRecord,
    bundle: Bundle | None,
    guard: Bundle | None,
    cheap: Bundle | None = None,
    others: Sequence[Bundle] = (),
) -> list[str]:
    """Where everything comes from."""
    rows = [
        ("store", record.source),
        ("molecule", formula(record)),
        ("replicas × length", f"{record.n_replicas} × {record.length_ps:g} ps"),
        ("seed", "not recorded" if record.seed is None else str(record.seed)),
        ("versions", ", ".join(f"{k} {v}" for k, v in record.versions.items()) or "not recorded"),
    ]
    for name, sha in record.bundles.items():
        rows.append((f"bundle {name}", f"sha256 {sha}"))
    helper = "inner potential" if record.config.get("inner_potential") else "proposal"
    named = [("propagator", bundle), ("guard potential", guard), (helper, cheap)]
    for role, b in (*named, *(("second opinion", other) for other in others)):
        if b is not None:
            card = b.card
            rows.append((f"{role}: {card.name}", card.level_of_theory or "level not stated"))
            held = ", ".join(f"{k} {v:.3g}" for k, v in card.held_out.items())
            rows.append((f"{role}: on unseen data", held or "not stated"))
            if command := card.training.get("command"):
                rows.append((f"{role}: trained by", str(command)))
    settings = [(key, json.dumps(value)) for key, value in record.config.items()]
    return [
        html.heading("Where this comes from"),
        html.table((), rows),
        html.folded("All settings of the run", html.table((), settings)),
    ]


def formula(record: RunRecord) -> str:
    """Chemical formula and size of what moved."""
    from ase.formula import Formula

    symbols = Formula.from_list(_symbols(record.molecule.numbers)).format("hill")
    return f"{symbols}, {record.molecule.n_atoms} atoms, {len(record.molecule.bonds)} bonds"


def _symbols(numbers: Tensor) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[z] for z in numbers.tolist()]
