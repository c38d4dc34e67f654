"""The questions a report asks of a run, each with its threshold and its answer.

A question that cannot be answered - no thermostat, no reference, no guard - is answered
"not checked" with the reason, never left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import torch
from ase.data import chemical_symbols
from torch import Tensor

from egno_md.bonds import constitution
from egno_md.bundle import Bundle
from egno_md.segment import MadeBy
from egno_md.trajectories.comparison import Comparison, Difference, reference_bond_means
from egno_md.trajectories.run_record import RunRecord, in_percent

#: Largest change of a bond from its mean length.
BOND_LIMIT_A: Final = 0.5

#: Largest deviation of the mean temperature from the thermostat's, as a share.
TEMPERATURE_LIMIT: Final = 0.03

#: Likewise of each element's temperature.
ELEMENT_LIMIT: Final = 0.05

#: Smallest share of frames that the network must have made.
NETWORK_LIMIT: Final = 0.90

#: Largest difference from the reference, in units of the floor.
FLOOR_FACTOR: Final = 2.0

#: Blocks into which temperatures are cut for their errors.
_ERROR_BLOCKS = 16


class Mark(StrEnum):
    """How a question was answered."""

    PASS = "PASS"
    WARN = "WARN"
    NOT_CHECKED = "NOT CHECKED"


@dataclass(frozen=True, slots=True)
class Check:
    """One question with its answer.

    Attributes:
        name: what was asked.
        mark: the answer.
        found: the value with its unit and error, empty if not checked.
        allowed: the threshold with its unit.
        note: what else must be known to read it, or why it was not checked.
    """

    name: str
    mark: Mark
    found: str
    allowed: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class MeanTemperature:
    """An average temperature.

    Attributes:
        label: whose.
        kelvin: the average.
        error: its standard error from blocks, NaN with a single block.
    """

    label: str
    kelvin: float
    error: float


def mean_temperatures(record: RunRecord) -> tuple[MeanTemperature, ...]:
    """Average temperatures of the whole molecule, then of each element.

    Args:
        record: the run; its start is left out.

    Returns:
        Nothing if the run has no frames after its start.
    """
    after = slice(1, None)
    series = torch.cat(
        [record.total_temperature[:, after, None], record.temperatures[:, after]], -1
    )
    if series.shape[1] == 0:
        return ()
    per_replica = min(-(-_ERROR_BLOCKS // record.n_replicas), series.shape[1])
    blocks = torch.cat([part.mean(1) for part in series.tensor_split(per_replica, dim=1)])
    n = len(blocks)
    errors = blocks.std(0) / n**0.5 if n > 1 else torch.full((blocks.shape[1],), math.nan)
    labels = ["all atoms", *(chemical_symbols[z] for z in record.elements.tolist())]
    means = series.mean((0, 1))
    return tuple(
        MeanTemperature(label, float(m), float(e))
        for label, m, e in zip(labels, means, errors, strict=True)
    )


def all_checks(
    record: RunRecord,
    comparison: Comparison | None,
    reference: Mapping[str, Tensor] | None,
    bundle: Bundle | None,
) -> tuple[Check, ...]:
    """Ask every question.

    Args:
        record: the run.
        comparison: the run against its reference, or None.
        reference: what `reference.safetensors` holds, or None.
        bundle: of the learned propagator, or None.
    """
    found = [_makers(record), _frames(record), _bonds(record, reference)]
    found += _temperatures(record)
    found.append(_trained_molecule(record, bundle))
    found.append(_trained_range(record, bundle))
    found.append(_energies(record))
    why = _why_not_compared(record, reference)
    found.append(
        _difference(
            "Bond lengths look like the reference",
            comparison.bond_mean if comparison else None,
            why,
        )
    )
    name = "g(r)" if any(record.molecule.pbc) else "h(r)"
    measured = None
    if comparison is not None:
        measured = comparison.radial_mean if name == "g(r)" else comparison.pairs
    found.append(_difference(f"{name} looks like the reference", measured, why))
    return tuple(found)


def _makers(record: RunRecord) -> Check:
    name, allowed = "Frames made by the network", f"≥ {NETWORK_LIMIT:.0%}"
    if record.mode in ("classical", "parareal"):
        why = "No frame of such a run is meant to be the network's."
        return Check(name, Mark.NOT_CHECKED, "", allowed, why)
    share = record.share(MadeBy.NETWORK)
    if math.isnan(share):
        return Check(name, Mark.NOT_CHECKED, "", allowed, "The run has no frames yet.")
    mark = Mark.PASS if share >= NETWORK_LIMIT else Mark.WARN
    return Check(name, mark, in_percent(share), allowed, "The start is not counted.")


def _frames(record: RunRecord) -> Check:
    name, allowed = "Frames asked for were made", "all"
    wanted_ps = record.config.get("length_ps")
    if not isinstance(wanted_ps, int | float):
        return Check(name, Mark.NOT_CHECKED, "", allowed, "The store does not say how long.")
    done = record.length_ps >= float(wanted_ps) * (1 - 1e-6) - _interval_ps(record)
    note = "" if done else "The run was stopped early; continue it with --resume."
    found = f"{record.length_ps:.4g} of {float(wanted_ps):.4g} ps"
    return Check(name, Mark.PASS if done else Mark.WARN, found, allowed, note)


def _interval_ps(record: RunRecord) -> float:
    return record.length_ps / (record.n_frames - 1) if record.n_frames > 1 else 0.0


def _bonds(record: RunRecord, reference: Mapping[str, Tensor] | None) -> Check:
    name, allowed = "No bond broke", f"≤ {BOND_LIMIT_A:g} Å from its mean"
    statistics = record.statistics
    if statistics is None:
        return Check(name, Mark.NOT_CHECKED, "", allowed, "The run has no frames yet.")
    bonds = record.molecule.bonds
    if len(bonds) == 0:
        return Check(name, Mark.NOT_CHECKED, "", allowed, "The molecule has no bonds listed.")
    usable = reference and record.reference_problem is None
    means = (
        reference_bond_means(reference, record.molecule)
        if usable and reference is not None
        else statistics["bond_mean_A"]
    )
    deviation = torch.maximum(statistics["bond_max_A"] - means, means - statistics["bond_min_A"])
    worst = int(deviation.argmax())
    i, j = (int(a) for a in bonds[worst])
    symbols = [chemical_symbols[int(record.molecule.numbers[a])] for a in (i, j)]
    largest = float(deviation[worst])
    bad = int(statistics["n_bad_frames"])
    note = f"Largest in bond {symbols[0]}{i}-{symbols[1]}{j}; every frame was looked at."
    note += " Means are the reference's." if usable else " Means are the run's own."
    if bad:
        note += f" {bad} frames are not finite numbers."
    mark = Mark.PASS if largest <= BOND_LIMIT_A and not bad else Mark.WARN
    return Check(name, mark, f"{largest:.3f} Å", allowed, note)


def _temperatures(record: RunRecord) -> list[Check]:
    names = ("Mean temperature", "Temperature of each element (equipartition)")
    limits = (TEMPERATURE_LIMIT, ELEMENT_LIMIT)
    means, target = mean_temperatures(record), record.target_K
    whole = "thermostat's" if target is not None else "mean"
    allowed = tuple(f"within {limit:.0%} of the {whole}" for limit in limits)
    if not means:
        why = "The run has no frames yet."
        return [Check(n, Mark.NOT_CHECKED, "", a, why) for n, a in zip(names, allowed, strict=True)]
    first: Check
    if target is None:
        why = "No thermostat set a temperature; a mean is shown for information."
        shown = f"{means[0].kelvin:.1f} K"
        first = Check(names[0], Mark.NOT_CHECKED, shown, "no target", why)
    else:
        first = _temperature(names[0], means[:1], target, limits[0], allowed[0])
    goal = means[0].kelvin if target is None else target
    return [first, _temperature(names[1], means[1:], goal, limits[1], allowed[1])]


def _temperature(
    name: str, means: tuple[MeanTemperature, ...], target: float, limit: float, allowed: str
) -> Check:
    if target <= 0:
        return Check(name, Mark.NOT_CHECKED, "", allowed, "The temperature is 0 K.")
    parts = []
    for m in means:
        error = "" if math.isnan(m.error) else f" ± {m.error:.1f}"
        label = f"{m.label} " if len(means) > 1 else ""
        # No-break spaces: a value stays on one line with its error and unit.
        parts.append(f"{label}{m.kelvin:.1f}{error} K".replace(" ", "\u00a0"))
    worst = max(abs(m.kelvin / target - 1.0) for m in means)
    largest_error = max((m.error for m in means if not math.isnan(m.error)), default=math.nan)
    note = f"{'Largest deviation' if len(means) > 1 else 'Deviation'} {worst:.1%}."
    if math.isnan(largest_error):
        note += " No error can be given for so few frames."
    elif largest_error > limit * target:
        note += (
            f" The statistical error ({largest_error / target:.1%}) is larger than the limit: "
            "only a longer run can tell."
        )
    return Check(name, Mark.PASS if worst <= limit else Mark.WARN, " · ".join(parts), allowed, note)


def _trained_molecule(record: RunRecord, bundle: Bundle | None) -> Check:
    name, allowed = "A molecule of the training data", "the same constitution"
    known = None if bundle is None else bundle.was_trained_on(record.molecule)
    if bundle is None or known is None:
        why = "No network was used." if record.mode == "classical" else "No card names molecules."
        return Check(name, Mark.NOT_CHECKED, "", allowed, why)
    here = constitution(record.molecule.numbers, record.molecule.bonds)
    note = "" if known else f"Trained on {', '.join(bundle.card.molecules)}."
    return Check(name, Mark.PASS if known else Mark.WARN, here, allowed, note)


def _trained_range(record: RunRecord, bundle: Bundle | None) -> Check:
    name, allowed = "Within the temperatures of the training data", "inside the range"
    if bundle is None or bundle.card.temperature_range_K is None:
        why = "No network was used." if record.mode == "classical" else "No card gives a range."
        return Check(name, Mark.NOT_CHECKED, "", allowed, why)
    if record.target_K is None:
        return Check(name, Mark.NOT_CHECKED, "", allowed, "No thermostat set a temperature.")
    low, high = bundle.card.temperature_range_K
    inside = low <= record.target_K <= high
    found = f"{record.target_K:g} K, trained {low:g} to {high:g} K"
    return Check(name, Mark.PASS if inside else Mark.WARN, found, allowed)


def _energies(record: RunRecord) -> Check:
    name, allowed = "Energies judged by a potential", "some of the network's frames"
    if record.mode in ("classical", "parareal"):
        return Check(name, Mark.NOT_CHECKED, "", allowed, "A classical run needs no judge.")
    if record.mode == "metropolised":
        note = f"Accepted or rejected by {record.config.get('guard')}; it knows not its own error."
        return Check(name, Mark.PASS, "every proposal", allowed, note)
    network = record.made_by == int(MadeBy.NETWORK)
    known = torch.isfinite(record.potential_energies) & network
    if not bool(known.any()):
        why = "No potential looked at the network's frames: nothing bounds their energy error."
        return Check(name, Mark.NOT_CHECKED, "", allowed, why)
    share = float(known.sum() / network.sum())
    judge = record.config.get("guard")
    note = f"Judged with {judge}; it knows nothing of its own error." if judge else ""
    return Check(name, Mark.PASS, f"{share:.1%} of them evaluated", allowed, note)


def _why_not_compared(record: RunRecord, reference: Mapping[str, Tensor] | None) -> str:
    if not reference:
        return "No reference statistics came with the bundle."
    if record.reference_problem is not None:
        return f"The reference could not be used: {record.reference_problem}."
    if record.statistics is None:
        return "The run has no frames yet."
    return "Neither run nor reference has these statistics."


def _difference(name: str, difference: Difference | None, why_not: str) -> Check:
    allowed = f"≤ {FLOOR_FACTOR:g} × what chance gives"
    if difference is None:
        return Check(name, Mark.NOT_CHECKED, "", allowed, why_not)
    passed = difference.ratio <= FLOOR_FACTOR
    found = f"{difference.value:.2g} = {difference.ratio:.2g} × chance"
    error = "" if math.isnan(difference.error) else f" ± {difference.error:.1g}"
    note = (
        f"{difference.value:.3g}{error}; two pieces of the reference, one as long as this run, "
        f"differ by {difference.floor:.3g} on average and {difference.floor_high:.3g} at the "
        "95th percentile."
    )
    return Check(name, Mark.PASS if passed else Mark.WARN, found, allowed, note)
