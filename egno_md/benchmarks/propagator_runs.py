"""Long runs of a contestant: friction and noise every 8 fs, no guard, until a bond fails."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from egno_md.benchmarks.propagator_rows import FRAME_FS, Frames
from egno_md.propagators.classical import OrnsteinUhlenbeck
from egno_md.state import State
from egno_md.units import BOLTZMANN_EV_PER_K, EV_PER_AMU_A2_FS2

#: A bond further than this from its length at the start geometry has failed, Å.
BOND_LIMIT_A = 0.5

#: Frames between kicks: segments of 8 fs for every contestant.
_FRAMES_PER_KICK = 2


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run showed.

    Attributes:
        n_failed: replicas that failed.
        whole_ps: mean time to failure or to the end.
        hydrogen_K: temperature of hydrogens while whole; None without samples.
        heavy_K: of the other atoms.
        cpu_ms_per_ps: processor time per replica, the bath left out.
    """

    n_failed: int
    whole_ps: float
    hydrogen_K: float | None
    heavy_K: float | None
    cpu_ms_per_ps: float


class _Temperatures:
    """Sums twice the kinetic energy of whole replicas, hydrogens and others apart."""

    def __init__(self, numbers: Tensor, masses: Tensor) -> None:
        self.masses = masses
        self.kinds = [numbers == 1, numbers != 1]
        self.sums, self.counts = [0.0, 0.0], [0, 0]

    def count(self, velocities: Tensor) -> None:
        twice = EV_PER_AMU_A2_FS2 * self.masses[:, None] * velocities.double().square()
        for k, kind in enumerate(self.kinds):
            self.sums[k] += float(twice[:, kind].sum())
            self.counts[k] += twice[:, kind].numel()

    def kelvin(self) -> list[float | None]:
        pairs = zip(self.sums, self.counts, strict=True)
        return [s / (n * BOLTZMANN_EV_PER_K) if n else None for s, n in pairs]


def run(
    frames: Frames,
    start: State,
    lengths_A: Tensor,
    *,
    temperature_K: float,
    friction_per_ps: float,
    length_ps: float,
    seed: int,
) -> RunResult:
    """Chain segments of 8 fs with Langevin kicks between them.

    A replica that failed starts anew so that the others go on, and is counted no more. The
    first tenth of the run is left out of the temperatures.

    Args:
        frames: makes frames every `FRAME_FS`.
        start: where the replicas begin.
        lengths_A: `(n_bonds,)`, what bonds are judged by.
        temperature_K: temperature of the bath.
        friction_per_ps: its friction.
        length_ps: length of the run.
        seed: seed of the noise.
    """
    bath = OrnsteinUhlenbeck(temperature_K, friction_per_ps, torch.Generator().manual_seed(seed))
    molecule, x, v = start.molecule, start.positions, start.velocities
    span_fs = _FRAMES_PER_KICK * FRAME_FS
    n_segments = max(1, round(1000.0 * length_ps / span_fs))
    whole = torch.ones(start.n_replicas, dtype=torch.bool)
    whole_fs = torch.zeros(start.n_replicas, dtype=torch.float64)
    temperatures = _Temperatures(molecule.numbers, molecule.masses)
    spent, done = 0.0, 0
    for segment in range(n_segments):
        v = bath.kicked(molecule, v, span_fs)
        began = time.process_time()
        xs, vs = frames(x, v, _FRAMES_PER_KICK)
        spent += time.process_time() - began
        done += 1
        x, v = xs[:, -1], vs[:, -1]
        good = _whole(x, v, molecule.bonds, lengths_A)
        whole &= good
        whole_fs[whole] += span_fs
        x = torch.where(good[:, None, None], x, start.positions)
        v = torch.where(good[:, None, None], v, start.velocities)
        if not bool(whole.any()):
            break
        if segment >= n_segments // 10:
            temperatures.count(v[whole])
    hydrogen_K, heavy_K = temperatures.kelvin()
    replica_ps = done * span_fs / 1000.0 * start.n_replicas
    return RunResult(
        int((~whole).sum()),
        float(whole_fs.mean()) / 1000.0,
        hydrogen_K,
        heavy_K,
        1000.0 * spent / replica_ps,
    )


def _whole(x: Tensor, v: Tensor, bonds: Tensor, lengths_A: Tensor) -> Tensor:
    """Which replicas `(n, n_atoms, 3)` have all bonds within the limit and finite numbers."""
    ends = x[:, bonds]
    off = ((ends[:, :, 0] - ends[:, :, 1]).norm(dim=-1) - lengths_A).abs()
    # NaN is within no limit.
    good: Tensor = (off <= BOND_LIMIT_A).all(-1) & torch.isfinite(v).flatten(1).all(-1)
    return good & torch.isfinite(x).flatten(1).all(-1)
