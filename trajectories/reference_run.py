"""Reference statistics: what classical dynamics with a potential looks like.

Two halves are made from different seeds, each of many replicas that never meet; every replica
is one block. That makes the reference-against-reference floor honest at any length that a
run may have: see `divergence.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from egno_md.propagators.classical import Langevin
from egno_md.roles import Potential
from egno_md.state import State, maxwell_boltzmann
from egno_md.trajectories.histograms import Bins
from egno_md.trajectories.statistics import StatisticsCounter

#: Size that a reference may have in a bundle.
REFERENCE_LIMIT_BYTES = 300_000

#: Frames between two counts, to bound the memory.
_FRAMES_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class ReferencePlan:
    """How reference statistics are made.

    Attributes:
        temperature_K: temperature of the Langevin dynamics.
        friction_per_ps: its friction.
        timestep_fs: its time step.
        frame_interval_fs: time between counted frames.
        length_ps: counted time of each replica.
        burn_in_ps: time before counting begins.
        n_replicas: replicas of both halves together; even, at least 4.
        seed: seed of the first half; the second takes the next one.
    """

    temperature_K: float = 300.0
    friction_per_ps: float = 2.0
    timestep_fs: float = 0.5
    frame_interval_fs: float = 2.0
    length_ps: float = 10.0
    burn_in_ps: float = 5.0
    n_replicas: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: naming the field.
        """
        for name in (
            "temperature_K",
            "friction_per_ps",
            "timestep_fs",
            "frame_interval_fs",
            "length_ps",
        ):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"reference: {name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.burn_in_ps < float("inf"):
            raise ValueError(f"reference: burn_in_ps must not be negative, got {self.burn_in_ps}")
        if self.n_replicas < 4 or self.n_replicas % 2:
            raise ValueError(
                f"reference: n_replicas must be even and at least 4, got {self.n_replicas}"
            )

    @property
    def total_frames(self) -> int:
        """Frames of all replicas together, the uncounted included."""
        return self.n_replicas * (self.n_burn_in + _FRAMES_AT_ONCE + self.n_frames)

    @property
    def n_burn_in(self) -> int:
        """Frames per replica before counting begins."""
        return round(self.burn_in_ps * 1000.0 / self.frame_interval_fs)

    @property
    def n_frames(self) -> int:
        """Counted frames per replica."""
        return max(1, round(self.length_ps * 1000.0 / self.frame_interval_fs))


def make_reference(
    potential: Potential,
    start: State,
    plan: ReferencePlan,
    *,
    description: str = "",
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Run classical Langevin dynamics and count what it does.

    Args:
        potential: makes the forces.
        start: a sensible geometry; every replica starts from its first one.
        plan: temperature, length and the rest.
        description: a sentence on where this comes from, kept with the counts.
        progress: called with the number of frames, of all replicas, as they are made.

    Returns:
        The dictionary of `statistics.py`, its blocks the replicas, the first half of them from
        one seed and the second from another; in addition `block_half (n_blocks,)`,
        `temperature_K ()`, `timestep_fs ()`, `friction_per_ps ()` and, as UTF-8 bytes,
        `description_utf8`. At most 300 kB.

    Raises:
        ValueError: if the dynamics leave the finite numbers or the molecule is too large.
    """
    molecule, half = start.molecule, plan.n_replicas // 2
    tick = progress or (lambda _: None)
    runs = [_Half(potential, start, plan, seed) for seed in (plan.seed, plan.seed + 1)]
    for run in runs:
        run.move(plan.n_burn_in, tick)
    cell = None if start.cell is None else start.cell[:1].expand(plan.n_replicas, 3, 3)
    bins = Bins.around(molecule, torch.cat([run.probe(tick) for run in runs]), cell)
    counter = StatisticsCounter(
        molecule,
        bins,
        n_replicas=plan.n_replicas,
        n_frames=plan.n_frames,
        frame_interval_fs=plan.frame_interval_fs,
    )
    done = 0
    while done < plan.n_frames:
        n = min(_FRAMES_AT_ONCE, plan.n_frames - done)
        parts = [run.frames(n, tick) for run in runs]
        x, v, energies = (torch.cat(column) for column in zip(*parts, strict=True))
        counter.add(x, v, energies, cell)
        done += n
    halves = torch.arange(2).repeat_interleave(half)
    numbers = {
        "temperature_K": plan.temperature_K,
        "timestep_fs": plan.timestep_fs,
        "friction_per_ps": plan.friction_per_ps,
    }
    return fit_into(
        counter.result()
        | {"block_half": halves}
        | {k: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items()}
        | {"description_utf8": torch.tensor(list(description.encode()), dtype=torch.uint8)},
        REFERENCE_LIMIT_BYTES,
    )


def fit_into(statistics: dict[str, Tensor], limit_bytes: int) -> dict[str, Tensor]:
    """Make statistics small: narrow integers, then neighbouring blocks added in pairs.

    Args:
        statistics: with `block_half`; blocks of different halves are never added.
        limit_bytes: size that all tensors together may have.

    Returns:
        The same statistics, perhaps of fewer and longer blocks.

    Raises:
        ValueError: if even four blocks are too large.
    """
    found = {key: _narrow(value) if _is_counts(key) else value for key, value in statistics.items()}
    while sum(v.numel() * v.element_size() for v in found.values()) > limit_bytes:
        n = found["block_frames"].shape[0]
        if n < 8 or n % 4:
            raise ValueError(
                f"reference statistics of {len(found['numbers'])} atoms do not fit into "
                f"{limit_bytes} bytes; use a molecule with fewer bonds"
            )
        for key in [k for k in found if _is_counts(k)]:
            wide = found[key].to(torch.int64)
            found[key] = _narrow(wide.reshape(n // 2, 2, *wide.shape[1:]).sum(1))
        found["block_frames"] = found["block_frames"].reshape(n // 2, 2).sum(1)
        found["block_half"] = found["block_half"].reshape(n // 2, 2)[:, 0].clone()
    return found


def _is_counts(key: str) -> bool:
    return key.endswith("_counts")


def _narrow(counts: Tensor) -> Tensor:
    fits = counts.numel() == 0 or int(counts.max()) <= torch.iinfo(torch.int16).max
    return counts.to(torch.int16 if fits else torch.int32)


class _Half:
    """Replicas that share a seed."""

    def __init__(self, potential: Potential, start: State, plan: ReferencePlan, seed: int) -> None:
        n = plan.n_replicas // 2
        generator = torch.Generator().manual_seed(seed)
        molecule = start.molecule
        velocities = maxwell_boltzmann(molecule, n, plan.temperature_K, generator)
        cell = None if start.cell is None else start.cell[:1].expand(n, 3, 3)
        positions = start.positions[:1].to(torch.float64).expand(n, -1, 3).clone()
        self._state = State(molecule, positions, velocities, 0.0, cell)
        self._dynamics = Langevin(
            potential,
            timestep_fs=plan.timestep_fs,
            frame_interval_fs=plan.frame_interval_fs,
            n_frames=_FRAMES_AT_ONCE,
            temperature_K=plan.temperature_K,
            friction_per_ps=plan.friction_per_ps,
            generator=generator,
        )

    def frames(self, n: int, tick: Callable[[int], None]) -> tuple[Tensor, Tensor, Tensor]:
        """Advance by n frames; give positions, velocities and potential energies."""
        segment = self._dynamics.advance(self._state, n)
        self._state = segment.last
        tick(n * self._state.n_replicas)
        return segment.positions, segment.velocities, segment.potential_energies

    def move(self, n_frames: int, tick: Callable[[int], None]) -> None:
        """Advance without looking."""
        left = n_frames
        while left > 0:
            n = min(_FRAMES_AT_ONCE, left)
            self.frames(n, tick)
            left -= n

    def probe(self, tick: Callable[[int], None]) -> Tensor:
        """Frames to centre the bins on."""
        return self.frames(_FRAMES_AT_ONCE, tick)[0]
