"""Which cheap signals know where a network errs: ranks of segments, and the worst atom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from egno_md.benchmarks.guard_cases import damaged_network
from egno_md.benchmarks.table import Table
from egno_md.bundle import Bundle
from egno_md.propagators.learned import LearnedPropagator
from egno_md.propagators.rest_start_force import RestStartForce
from egno_md.roles import Potential
from egno_md.segment import Segment
from egno_md.state import State
from egno_md.trajectories.ensemble_judge import EnsembleJudge
from egno_md.trajectories.guard_calibration import energy_errors

#: Noise on the weights of what is judged.
_NOISES: Final = (0.0, 0.003, 0.01, 0.02, 0.05)

#: Members of the ensemble and the noise on their weights: networks of about the same error.
_MEMBERS: Final = 4
_MEMBER_NOISE: Final = 0.01

#: Windows that the table comes from.
_N_WINDOWS: Final = 64


def signal_table(
    bundle: Bundle, potential: Potential, starts: State, trusted: Segment, seed: int
) -> Table:
    """Correlate signals with the true error of a network's segments.

    Args:
        bundle: the network.
        potential: the guard's.
        starts: of windows.
        trusted: what follows them truly.
        seed: seed of the noise.
    """
    rows = torch.arange(min(_N_WINDOWS, starts.n_replicas))
    starts, true = starts.replica(rows), trusted.positions[rows, -1]
    n, molecule = trusted.n_frames, starts.molecule
    members = [
        damaged_network(bundle, molecule, _MEMBER_NOISE, seed + 100 + k, n) for k in range(_MEMBERS)
    ]
    ensemble = EnsembleJudge(members, 1.0)
    table = Table(
        "guard-signals",
        f"Signals of a network's error at the end of {len(rows)} segments of ethanol. r: rank "
        "correlation with the position error of the worst atom; atom: how often the signal is "
        f"largest at that atom, %. Ensemble: mean distance from {_MEMBERS} networks with "
        f"weights off by {_MEMBER_NOISE:.0%}",
        (
            "weights off by, %",
            "position error, median, Å",
            "energy error: r",
            "force residual: r",
            "force residual: atom",
            "ensemble: r",
            "ensemble: atom",
        ),
    )
    for noise in _NOISES:
        network = damaged_network(bundle, molecule, noise, seed, n)
        segment = network.advance(starts)
        off = (segment.positions[:, -1] - true).norm(dim=-1)
        signals: Mapping[str, Tensor] = {
            "forces": _force_residual(network, potential, segment),
            "ensemble": ensemble.disagreement_A(starts, segment)[:, -1],
        }
        worst = off.amax(1)
        cells: list[float] = [100.0 * noise, float(worst.median())]
        cells.append(rank_correlation(energy_errors(network, potential, starts, n), worst))
        for signal in signals.values():
            same = (signal.argmax(1) == off.argmax(1)).double().mean()
            cells += [rank_correlation(signal.amax(1), worst), 100.0 * float(same)]
        table.add(*cells)
    return table


def _force_residual(network: LearnedPropagator, potential: Potential, segment: Segment) -> Tensor:
    """|F of the potential - F of a start at rest| at the end, `(n_replicas, n_atoms)`, eV/Å."""
    end = segment.last
    residual: Tensor = (
        RestStartForce(network).evaluate(end).forces - potential.evaluate(end).forces
    ).norm(dim=-1)
    return residual


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's correlation of two vectors without ties.

    Args:
        a: `(n,)`.
        b: `(n,)`.
    """
    ranks = [x.argsort().argsort().double() for x in (a, b)]
    p, q = (rank - rank.mean() for rank in ranks)
    return float((p * q).sum() / (p.norm() * q.norm()))
