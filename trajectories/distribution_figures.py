"""Pictures of a run's distributions over those of its reference."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from egno_md.trajectories.svg_picture import (
    INK,
    NETWORK_COLOUR,
    REFERENCE_COLOUR,
    as_svg,
    figure,
    name_axes,
)


def distributions_figure(
    label: str,
    titles: list[str],
    edges: list[np.ndarray],
    run: Tensor,
    reference: Tensor | None,
    unit: str,
) -> str:
    """Small histograms, run over reference.

    Args:
        label: identifies the picture on the page.
        titles: one per histogram.
        edges: bin edges of each.
        run: `(n_histograms, n_bins)` counts.
        reference: likewise, or None.
        unit: of the horizontal axis.
    """
    columns = 3
    rows = -(-len(titles) // columns)
    with figure(0.35 + 1.75 * rows) as drawing:
        grid = drawing.subplots(rows, columns, squeeze=False)
        for n, axes in enumerate(grid.flat):
            if n >= len(titles):
                axes.set_visible(False)
                continue
            width = np.diff(edges[n])
            counts = run[n].double().numpy()
            parts = [counts]
            if reference is not None:
                other = reference[n].double().numpy()
                parts.append(other)
                axes.stairs(
                    other / other.sum() / width,
                    edges[n],
                    fill=True,
                    color=REFERENCE_COLOUR,
                    alpha=0.4,
                    label="reference",
                )
            axes.stairs(
                counts / counts.sum() / width,
                edges[n],
                color=NETWORK_COLOUR,
                lw=1.4,
                label="this run",
            )
            seen = np.nonzero(sum(p / p.sum() for p in parts) > 1e-5)[0]
            left, right = max(0, seen[0] - 2), min(len(counts), seen[-1] + 3)
            axes.set_xlim(edges[n][left], edges[n][right])
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.set_title(titles[n], fontsize=8.5)
            if n >= len(titles) - columns:
                axes.set_xlabel(unit)
        handles, names = grid.flat[0].get_legend_handles_labels()
        drawing.legend(handles, names, loc="outside upper right", ncols=2)
        return as_svg(drawing, label, "Distributions of the run over those of the reference.")


def pairs_figure(run: Tensor, reference: Tensor | None, low_A: float, high_A: float) -> str:
    """Show h(r), and the difference from the reference below it.

    Args:
        run: `(500,)` counts.
        reference: likewise, or None.
        low_A: lower end of the first bin.
        high_A: upper end of the last.
    """
    edges = np.linspace(low_A, high_A, len(run) + 1)
    middle, width = 0.5 * (edges[1:] + edges[:-1]), edges[1] - edges[0]
    mine = run.double().numpy()
    mine = mine / mine.sum() / width
    used = mine
    with figure(3.0 if reference is not None else 2.2) as drawing:
        if reference is None:
            upper = drawing.add_subplot()
        else:
            upper, lower = drawing.subplots(2, 1, sharex=True, height_ratios=(3, 1))
            other = reference.double().numpy()
            other = other / other.sum() / width
            used = mine + other
            upper.fill_between(
                middle, other, color=REFERENCE_COLOUR, alpha=0.4, lw=0, label="reference"
            )
            lower.plot(middle, mine - other, color=NETWORK_COLOUR, lw=1.0)
            lower.axhline(0.0, color=INK, lw=0.7)
            name_axes(lower, "r (Å)", "run − ref.")
        upper.plot(middle, mine, color=NETWORK_COLOUR, lw=1.2, label="this run")
        seen = np.nonzero(used > 1e-4)[0]
        if len(seen):
            upper.set_xlim(max(0.0, middle[seen[0]] - 0.2), middle[seen[-1]] + 0.2)
        name_axes(upper, "r (Å)" if reference is None else "", "h(r) (1/Å)")
        upper.legend(loc="upper right")
        return as_svg(drawing, "pairs", "Distribution of all interatomic distances.")


def radial_figure(
    labels: tuple[str, ...], run: Tensor, reference: Tensor | None, high_A: float
) -> str:
    """Show g(r) of each pair of elements.

    Args:
        labels: one per pair.
        run: `(n_pairs, n_bins)`.
        reference: likewise, or None.
        high_A: upper end of the last bin; the first begins at 0.
    """
    edges = np.linspace(0.0, high_A, run.shape[1] + 1)
    middle = 0.5 * (edges[1:] + edges[:-1])
    with figure(0.3 + 1.9 * len(labels)) as drawing:
        grid = drawing.subplots(len(labels), 1, squeeze=False, sharex=True)
        for n, axes in enumerate(grid.flat):
            if reference is not None:
                other = reference[n].numpy()
                axes.fill_between(
                    middle, other, color=REFERENCE_COLOUR, alpha=0.4, lw=0, label="reference"
                )
            axes.plot(middle, run[n].numpy(), color=NETWORK_COLOUR, lw=1.2, label="this run")
            axes.axhline(1.0, color=INK, lw=0.5, ls=":")
            axes.set_xlim(0.0, high_A)
            name_axes(axes, "r (Å)" if n == len(labels) - 1 else "", f"g(r) {labels[n]}")
        grid.flat[0].legend(loc="upper left")
        return as_svg(drawing, "radial", "Radial distribution of the run over the reference's.")
