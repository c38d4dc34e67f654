"""The part of a report that sets structure beside the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from egno_md.trajectories import report_page as html
from egno_md.trajectories.bond_classes import internal_coordinates
from egno_md.trajectories.comparison import Comparison, Difference
from egno_md.trajectories.distribution_figures import (
    distributions_figure,
    pairs_figure,
    radial_figure,
)
from egno_md.trajectories.histograms import (
    ANGLE_BINS,
    BOND_BINS,
    BOND_RANGE_A,
    PAIR_HIGH_A,
    PAIR_LOW_A,
    sum_alike,
)
from egno_md.trajectories.radial_distribution import (
    MOST_ATOMS,
    RADIAL_BINS,
    radial_distribution,
    radial_labels,
)
from egno_md.trajectories.report_checks import FLOOR_FACTOR
from egno_md.trajectories.run_record import RunRecord


def structure_section(
    record: RunRecord,
    comparison: Comparison | None,
    reference: Mapping[str, Tensor] | None,
) -> list[str]:
    """Bond lengths, angles, torsions and h(r) or g(r), beside the reference."""
    parts = [html.heading("Structure beside the reference")]
    statistics = record.statistics
    if statistics is None:
        return [*parts, html.paragraph("The run has no frames after its start.")]
    parts += [html.paragraph(text) for text in _reference_words(record, comparison, reference)]
    other = reference if comparison else None
    parts += _bond_parts(record, comparison, other)
    if "pair_counts" in statistics and bool(statistics["pair_counts"].any()):
        pairs = other.get("pair_counts") if other else None
        svg = pairs_figure(
            statistics["pair_counts"].sum(0),
            None if pairs is None else pairs.sum(0),
            PAIR_LOW_A,
            PAIR_HIGH_A,
        )
        text = "h(r): all interatomic distances (500 bins up to 10 Å, Fu et al. 2023)."
        if comparison and comparison.pairs:
            text += " MAE " + _against_floor(comparison.pairs)
        parts.append(html.picture(svg, text))
    elif "radial_counts" in statistics and bool(statistics["radial_counts"].any()):
        parts += _radial_parts(statistics, comparison, other)
    else:
        text = "There is neither h(r) nor g(r): no pair near, a cell periodic along some "
        text += f"directions only, or more than {MOST_ATOMS} atoms in it."
        parts.append(html.paragraph(text, soft=True))
    return parts + _torsion_parts(record, comparison, other)


def _reference_words(
    record: RunRecord, comparison: Comparison | None, reference: Mapping[str, Tensor] | None
) -> list[str]:
    if comparison is None or reference is None:
        why = record.reference_problem or "no reference statistics came with the bundle"
        return [f"Nothing to compare with: {why}. The run's own distributions are shown."]
    about = bytes(reference.get("description_utf8", torch.zeros(0)).to(torch.uint8).tolist())
    total = comparison.reference_blocks * comparison.block_ps
    text = about.decode(errors="replace").rstrip(".")
    text = f"Reference: {text}. " if text else "Reference: "
    text += (
        f"{comparison.reference_blocks} independent replicas or groups of them, "
        f"{comparison.block_ps:.3g} ps each, {total:.4g} ps in all. This run counts as "
        f"{comparison.run_blocks:.3g} of them."
    )
    if comparison.extrapolated:
        text += (
            " That is outside what can be drawn from the reference, so the floor was carried "
            "over by its law (noise falls as one over the length)."
        )
    floor = (
        "Chance, the floor: how far a piece of the reference as long as this run lies from the "
        f"rest of it. Up to {FLOOR_FACTOR:g} times the floor passes."
    )
    if not comparison.same_order:
        floor += " The atoms stand in another order than the reference's: alike bonds are pooled."
    return [text, floor]


def _against_floor(d: Difference) -> str:
    error = "" if math.isnan(d.error) else f" ± {d.error:.1g}"
    return f"{d.value:.3g}{error}, chance {d.floor:.3g}: {d.ratio:.2g} times the floor."


def _bond_parts(
    record: RunRecord, comparison: Comparison | None, reference: Mapping[str, Tensor] | None
) -> list[str]:
    statistics = record.statistics
    coordinates = internal_coordinates(record.molecule)
    labels = coordinates.bond_labels
    if statistics is None or not labels:
        return [html.paragraph("The molecule has no bonds listed.", soft=True)]
    classes, n = coordinates.bond_class, len(labels)
    first = [int((classes == k).nonzero()[0]) for k in range(n)]
    edges = [
        np.linspace(0.0, BOND_RANGE_A, BOND_BINS + 1) + float(statistics["bond_low_A"][b])
        for b in first
    ]
    run = sum_alike(statistics["bond_counts"], classes, n).sum(0)
    other = None
    if reference:
        other = sum_alike(reference["bond_counts"], reference["bond_class"], n).sum(0)
    svg = distributions_figure("bonds", list(labels), edges, run, other, "length (Å)")
    parts = [html.picture(svg, "Bond lengths. Alike bonds are drawn together.")]
    if comparison:
        parts.append(
            difference_table(
                "bond lengths",
                [*comparison.bonds, *([comparison.bond_mean] if comparison.bond_mean else [])],
            )
        )
    return parts


def difference_table(what: str, differences: Sequence[Difference]) -> str:
    """Divergences beside their floors.

    Args:
        what: name of the first column.
        differences: the rows.
    """
    rows = [
        (
            d.label,
            f"{1e3 * d.value:.3f}" + ("" if math.isnan(d.error) else f" ± {1e3 * d.error:.3f}"),
            f"{1e3 * d.floor:.3f}",
            f"{1e3 * d.floor_high:.3f}",
            f"{d.ratio:.2f}",
        )
        for d in differences
    ]
    head = (what, "divergence × 1000", "chance, mean", "chance, 95 %", "times the floor")
    return html.table(head, rows, (1, 2, 3, 4)) + html.paragraph(
        "Jensen-Shannon divergence with the natural logarithm, 0 to 0.693, times 1000; "
        "the divergence itself, not its square root.",
        soft=True,
    )


def _radial_parts(
    statistics: Mapping[str, Tensor],
    comparison: Comparison | None,
    reference: Mapping[str, Tensor] | None,
) -> list[str]:
    high_A, volume_A3 = float(statistics["radial_high_A"]), float(statistics["volume_A3"])

    def distribution(of: Mapping[str, Tensor]) -> Tensor:
        return radial_distribution(of["radial_counts"].sum(0), high_A, volume_A3)

    other = distribution(reference) if reference and "radial_counts" in reference else None
    labels = radial_labels(statistics["radial_elements"])
    text = (
        f"g(r) of nearest images, {RADIAL_BINS} bins up to {high_A:.2f} Å, where the cell ends; "
        "1 means no order."
    )
    if comparison and comparison.radial_mean:
        text += " Mean absolute difference " + _against_floor(comparison.radial_mean)
    svg = radial_figure(labels, distribution(statistics), other, high_A)
    parts = [html.picture(svg, text)]
    if comparison and len(comparison.radial) > 1:
        rows = [
            (d.label, f"{d.value:.4f}", f"{d.floor:.4f}", f"{d.floor_high:.4f}", f"{d.ratio:.2f}")
            for d in comparison.radial
        ]
        head = ("g(r)", "mean |difference|", "chance, mean", "chance, 95 %", "times the floor")
        parts.append(html.table(head, rows, (1, 2, 3, 4)))
    return parts


def _torsion_parts(
    record: RunRecord, comparison: Comparison | None, reference: Mapping[str, Tensor] | None
) -> list[str]:
    statistics = record.statistics
    labels = internal_coordinates(record.molecule).torsion_labels
    if statistics is None or not labels:
        return []
    edges = [np.linspace(-180.0, 180.0, ANGLE_BINS + 1)] * len(labels)
    other = reference.get("torsion_counts") if reference else None
    svg = distributions_figure(
        "torsions",
        list(labels),
        edges,
        statistics["torsion_counts"].sum(0),
        None if other is None else other.sum(0),
        "torsion (degrees)",
    )
    caption = (
        "Torsions: the slowest motions here. A short run need not have visited all of them; "
        "they are shown and not judged."
    )
    inside = html.picture(svg, caption)
    if comparison and comparison.torsions:
        inside += difference_table("torsions", comparison.torsions)
    if comparison and comparison.angles:
        inside += difference_table("angles", comparison.angles)
    return [html.folded("Torsions and angles", inside)]
