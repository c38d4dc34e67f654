"""Pictures of a run over time and of what it cost."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from egno_md.trajectories.svg_picture import (
    GIVEN_COLOUR,
    INK,
    INTEGRATOR_COLOUR,
    NETWORK_COLOUR,
    SERIES_COLOURS,
    as_svg,
    figure,
    legend_above,
    name_axes,
    thin,
)


def makers_figure(made_by: Tensor, length_ps: float) -> str:
    """Show who made what: one strip per replica, time to the right.

    Args:
        made_by: `(n_replicas, n_frames)`, values of `MadeBy`.
        length_ps: time the frames cover.
    """
    shown = made_by[:64]
    columns = min(shown.shape[1], 600)
    edges = torch.linspace(0, shown.shape[1], columns + 1).round().long()
    colours = {0: GIVEN_COLOUR, 1: NETWORK_COLOUR, 2: INTEGRATOR_COLOUR}
    image = np.zeros((shown.shape[0], columns, 3))
    for c in range(columns):
        part = shown[:, edges[c] : edges[c + 1]]
        # An integrator's frame must be seen, however few there are beside it.
        worst = part.amax(1).clamp(0, 2)
        for maker, colour in colours.items():
            image[(worst == maker).numpy(), c] = mpl.colors.to_rgb(colour)
    rows = shown.shape[0]
    with figure(0.75 + 0.11 * min(rows, 32) + 0.02 * max(0, rows - 32)) as drawing:
        axes = drawing.add_subplot()
        axes.imshow(
            image,
            aspect="auto",
            interpolation="none",
            extent=(0.0, max(length_ps, 1e-6), rows - 0.5, -0.5),
        )
        axes.set_xlabel("time (ps)")
        axes.set_ylabel("replica")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        axes.spines[:].set_visible(False)
        return as_svg(drawing, "makers", "Who made each frame, one strip per replica over time.")


def temperature_figure(times_ps: Tensor, temperature: Tensor, target_K: float | None) -> str:
    """Temperature over time: the mean of the replicas, the middle half of them as a band.

    Args:
        times_ps: `(n_frames,)`.
        temperature: `(n_replicas, n_frames)`, K.
        target_K: of the thermostat, or None.
    """
    x = thin(times_ps, 300).numpy()
    smooth = thin(temperature.T, 300)
    with figure(2.3) as drawing:
        axes = drawing.add_subplot()
        if temperature.shape[0] > 3:
            low, high = torch.quantile(smooth, torch.tensor([0.25, 0.75]).to(smooth), dim=1)
            axes.fill_between(
                x, low, high, color=NETWORK_COLOUR, alpha=0.22, lw=0, label="middle half"
            )
        axes.plot(x, smooth.mean(1), color=NETWORK_COLOUR, label="mean of the replicas")
        if target_K is not None:
            axes.axhline(target_K, color=INK, lw=1, ls="--", label="thermostat")
        name_axes(axes, "time (ps)", "temperature (K)")
        legend_above(axes)
        return as_svg(drawing, "temperature", "Kinetic temperature over time.")


def shared_frames(known: Tensor) -> Tensor:
    """Frames whose mean over replicas is worth drawing: at least half as many as there ever are.

    Args:
        known: `(n_replicas, n_frames)` bool, where there is an energy.

    Returns:
        `(n_frames,)` bool; a frame of one replica alone, say after a rejection, is none of them.
    """
    count = known.sum(0)
    most = count.max() if len(count) else 0
    return (count > 0) & (2 * count >= most)


def energy_figure(times_ps: Tensor, potential: Tensor, kinetic: Tensor, n_atoms: int) -> str:
    """Energies over time, means over the replicas, from their first values, per atom.

    Args:
        times_ps: `(n_frames,)`.
        potential: `(n_replicas, n_frames)`, eV, NaN where not evaluated.
        kinetic: `(n_replicas, n_frames)`, eV.
        n_atoms: atoms of one replica.
    """
    known = torch.isfinite(potential)
    used = shared_frames(known)
    scale = 1000.0 / n_atoms
    with figure(2.5) as drawing:
        axes = drawing.add_subplot()
        series = [("kinetic", kinetic.mean(0), torch.ones_like(used))]
        if bool(used.any()):
            weight = known.double()
            count = weight.sum(0).clamp_min(1.0)
            # Against each replica's own mean, so that who was evaluated when does not matter.
            own = torch.nan_to_num(potential).sum(1) / weight.sum(1).clamp_min(1.0)
            offset = (torch.nan_to_num(potential) - own[:, None]) * weight
            own_kinetic = (torch.nan_to_num(kinetic) * weight).sum(1) / weight.sum(1).clamp_min(1)
            total = offset + (kinetic - own_kinetic[:, None]) * weight
            series += [
                ("potential", offset.sum(0) / count, used),
                ("total", total.sum(0) / count, used),
            ]
        for (name, values, where), colour in zip(series, SERIES_COLOURS, strict=False):
            centred = values[where] - values[where].mean()
            x = thin(times_ps[where], 300).numpy()
            style: dict[str, Any] = {"color": colour, "label": name}
            if len(x) < 40:
                style |= {"marker": ".", "markersize": 4}
            axes.plot(x, thin(centred, 300) * scale, **style)
        name_axes(axes, "time (ps)", "energy − its mean\n(meV/atom)")
        legend_above(axes)
        return as_svg(drawing, "energy", "Mean energies of the replicas over time.")


def element_figure(
    labels: list[str], means: list[float], errors: list[float], target_K: float, limit: float
) -> str:
    """Temperature of each element against the target, with the allowed band.

    Args:
        labels: element symbols.
        means: K.
        errors: standard errors, K, NaN where unknown.
        target_K: the thermostat's, or the mean.
        limit: allowed deviation, as a share.
    """
    with figure(0.7 + 0.3 * len(labels)) as drawing:
        axes = drawing.add_subplot()
        axes.axvspan(
            target_K * (1 - limit), target_K * (1 + limit), color="#3a9d6e", alpha=0.18, lw=0
        )
        axes.axvline(target_K, color=INK, lw=1, ls="--")
        y = np.arange(len(labels))[::-1]
        axes.errorbar(
            means,
            y,
            xerr=np.nan_to_num(errors),
            fmt="o",
            color=NETWORK_COLOUR,
            ms=5,
            capsize=3,
            lw=1.4,
        )
        axes.set_yticks(y, labels)
        axes.set_ylim(-0.6, len(labels) - 0.4)
        axes.set_xlabel("kinetic temperature (K); bars: one standard error; green: allowed")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return as_svg(drawing, "elements", "Temperature of each element.")


def cost_figure(
    run_cpu_s_per_ps: float,
    classical_cpu_s_per_ps: float,
    training_cpu_s: float,
    replica_ps: float,
    break_even_ps: float,
) -> str:
    """CPU time over simulated time, with training counted, and where the lines cross.

    Args:
        run_cpu_s_per_ps: of the run.
        classical_cpu_s_per_ps: of classical integration.
        training_cpu_s: spent before the first frame.
        replica_ps: this run's length.
        break_even_ps: where the lines cross, perhaps infinite.
    """
    far = max(replica_ps, break_even_ps if np.isfinite(break_even_ps) else 0.0, 1.0)
    x = np.logspace(np.log10(min(replica_ps, far) / 10), np.log10(far * 10), 100)
    with figure(2.5) as drawing:
        axes = drawing.add_subplot()
        axes.loglog(
            x,
            training_cpu_s + run_cpu_s_per_ps * x,
            color=NETWORK_COLOUR,
            label="training + this kind of run",
        )
        axes.loglog(
            x, classical_cpu_s_per_ps * x, color=INTEGRATOR_COLOUR, label="classical integration"
        )
        axes.axvline(replica_ps, color=INK, lw=0.8, ls=":", label="this run")
        if np.isfinite(break_even_ps):
            axes.plot(
                [break_even_ps],
                [classical_cpu_s_per_ps * break_even_ps],
                "o",
                color=INK,
                ms=5,
                label="break-even",
            )
        name_axes(axes, "simulated time, all replicas together (ps)", "CPU time (s)")
        legend_above(axes, 4)
        return as_svg(drawing, "cost", "CPU time over simulated time, with the break-even point.")
