"""Rows of `egno-md benchmark acceleration` take turns; what a turn gave is kept on disk.

Turns make the ratios of a busy machine fair. A turn begins where the row's last one ended, with
the same random numbers as without a stop, so a benchmark that was ended goes on after the last
finished turn of each row.

A turn is a record of tensors:

| key | shape, type | meaning |
|---|---|---|
| `positions` | `(n_replicas, n, n_atoms, 3)` float32 | frames, Å; NaN once a replica has failed |
| `temperatures_K` | `(n_replicas, n, 2)` float64 | kinetic, of hydrogens and of other atoms |
| `failed_fs` | `(n_replicas,)` float64 | when a replica failed, NaN where it did not |
| `cpu_s` | `()` float64 | processor time of the propagator, looking at frames left out |
| `proposals`, `accepted` | `()` int64 | in this turn |
| `end.positions`, `end.velocities`, `end.time_fs` | | where the next turn begins |
| `restart.*` | | what the propagator needs to go on |
"""

from __future__ import annotations

import time
from typing import Final

import torch
from torch import Tensor

from egno_md.benchmarks.acceleration_rows import Contestant
from egno_md.benchmarks.rollout_measures import BOND_LIMIT_A, Record
from egno_md.propagators.by_replicas import by_replicas
from egno_md.propagators.restart import named_under, taken_from
from egno_md.segment import Segment
from egno_md.state import State
from egno_md.trajectories.histograms import bond_lengths
from egno_md.units import BOLTZMANN_EV_PER_K, EV_PER_AMU_A2_FS2

#: Numbers kept of all turns of a row; a quick row ends before its time is up.
MOST_VALUES: Final = 20_000_000


class Runner:
    """Moves the replicas of one row on, turn by turn.

    A replica that failed starts anew underneath, so that the others go on in the same batch; its
    frames are NaN from then on.
    """

    def __init__(
        self, contestant: Contestant, start: State, lengths_A: Tensor, n_turns: int
    ) -> None:
        """Begin at the start.

        Args:
            contestant: the row.
            start: where the replicas begin, with the molecule's usual masses.
            lengths_A: `(n_bonds,)`, what bonds are judged by.
            n_turns: turns that will come.
        """
        self.contestant, self.lengths_A = contestant, lengths_A
        self.start = self.state = contestant.start(start)
        self.failed_fs = torch.full((start.n_replicas,), float("nan"), dtype=torch.float64)
        hydrogen = start.molecule.numbers == 1
        self._kinds = (hydrogen, ~hydrogen)
        self._most = max(1, MOST_VALUES // (n_turns * start.positions.numel()))

    def warm_up(self) -> None:
        """Fill caches and compile; nothing of it is kept but the random numbers drawn."""
        self._advanced()

    def resume(self, turn: Record) -> None:
        """Go on after a turn."""
        self.failed_fs = turn["failed_fs"].clone()
        self.state = self.start.with_(
            positions=turn["end.positions"],
            velocities=turn["end.velocities"],
            time_fs=float(turn["end.time_fs"]),
        )
        self.contestant.propagator.restore(taken_from("restart", turn))

    def turn(self, cpu_s: float) -> Record:
        """Run for some processor time; nothing where all replicas have failed.

        Args:
            cpu_s: of the propagator, about; at least one frame is made.
        """
        frames: list[Tensor] = []
        kelvins: list[Tensor] = []
        before, spent = self._counts(), 0.0
        while not self._over() and (not frames or (spent < cpu_s and len(frames) < self._most)):
            began = time.process_time()
            made = self._advanced()
            # Looking at frames is no row's work; OpenMM would take as long for its own.
            spent += time.process_time() - began
            x, v = self._judged(*made)
            frames.append(x.to(torch.float32))
            kelvins.append(self._temperatures(v))
        after = self._counts()
        n, shape = self.start.n_replicas, self.start.positions.shape[1:]
        # Parts of a propagator may share tensors, which a file does not hold twice.
        going_on = {k: t.clone() for k, t in self.contestant.propagator.restart_state().items()}
        return {
            "positions": torch.stack(frames, 1) if frames else torch.zeros((n, 0, *shape)),
            "temperatures_K": (
                torch.stack(kelvins, 1) if kelvins else torch.zeros((n, 0, 2)).double()
            ),
            "failed_fs": self.failed_fs.clone(),
            "cpu_s": torch.tensor(spent, dtype=torch.float64),
            "proposals": torch.tensor(after[0] - before[0]),
            "accepted": torch.tensor(after[1] - before[1]),
            "end.positions": self.state.positions.clone(),
            "end.velocities": self.state.velocities.clone(),
            "end.time_fs": torch.tensor(self.state.time_fs, dtype=torch.float64),
            **named_under("restart", going_on),
        }

    def _over(self) -> bool:
        return not bool(torch.isnan(self.failed_fs).any())

    def _counts(self) -> tuple[int, int]:
        sampler = self.contestant.sampler
        if sampler is None:
            return 0, 0
        found = sampler.statistics()
        return found.proposals, found.accepted

    def _advanced(self) -> tuple[Tensor, Tensor]:
        """The next frame, `(n_replicas, n_atoms, 3)` each; NaN where it cannot be made."""
        x = torch.full_like(self.state.positions, float("nan"))
        v = x.clone()
        made: Segment | ValueError
        for rows, made in by_replicas(
            self.state.n_replicas,
            lambda rows: self.contestant.propagator.advance(
                self.state if len(rows) == self.state.n_replicas else self.state.replica(rows),
                self.contestant.n_frames,
            ),
        ):
            if not isinstance(made, ValueError):
                x[rows] = made.positions[:, -1].to(x)
                v[rows] = made.velocities[:, -1].to(v)
        return x, v

    def _judged(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Note who failed, take the frame as the next start, and hide the failed."""
        off = (bond_lengths(x, self.start.molecule.bonds) - self.lengths_A).abs()
        # NaN is within no limit.
        good = (off <= BOND_LIMIT_A).all(-1) & torch.isfinite(torch.cat([x, v], -1)).all(-1).all(-1)
        now_fs = self.state.time_fs + self.contestant.interval_fs
        self.failed_fs[~good & torch.isnan(self.failed_fs)] = now_fs
        here = good[:, None, None]
        self.state = self.start.with_(
            positions=torch.where(here, x, self.start.positions),
            velocities=torch.where(here, v, self.start.velocities),
            time_fs=now_fs,
        )
        hidden = ~torch.isnan(self.failed_fs)[:, None, None]
        return x.masked_fill(hidden, float("nan")), v.masked_fill(hidden, float("nan"))

    def _temperatures(self, v: Tensor) -> Tensor:
        """Kinetic temperatures of hydrogens and others, `(n_replicas, 2)`; NaN without any."""
        masses = self.start.molecule.masses
        twice = EV_PER_AMU_A2_FS2 * masses * v.to(torch.float64).square().sum(-1)
        return torch.stack(
            [twice[:, k].mean(-1) / (3 * BOLTZMANN_EV_PER_K) for k in self._kinds], 1
        )
