r"""Charged particles that attract and repel each other: the N-body system of the paper's tables.

The system of Kipf et al. (2018, arXiv 1802.04687) as Satorras et al. (2021, arXiv 2102.09844)
and Xu et al. (2024) use it, in units of its own: unit masses, charges of plus or minus one with
equal chance, no box, and

.. math::
    F_i = \sum_{j \ne i} q_i q_j \frac{x_i - x_j}{|x_i - x_j|^3},

each component of :math:`F_i` cut at 100. Positions start from a unit Gaussian, every particle
with speed 0.5. A step of 0.001 moves first (`x += dt v`) and then kicks (`v += dt F`); what is
kept of a step is `x` after its move and `v` before its kick, as published.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from egno_md.data.progress import progress_bar

#: Time step, in the system's unit of time.
TIME_STEP: Final = 1e-3
#: Steps between frames that are kept.
STEPS_PER_FRAME: Final = 100
#: Largest component of a force.
LARGEST_FORCE: Final = 100.0
#: Speed of each particle at the start.
START_SPEED: Final = 0.5

#: Trajectories worked on at a time; keeps the pairs in the processor's cache.
_BLOCK: Final = 500


def random_starts(
    n_trajectories: int, n_particles: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw starts.

    Args:
        n_trajectories: how many.
        n_particles: particles of each.
        generator: source of randomness.

    Returns:
        positions and velocities `(n_trajectories, n_particles, 3)` float64, and charges
        `(n_trajectories, n_particles)` float64.

    Raises:
        ValueError: if one of the numbers is below 1.
    """
    if n_trajectories < 1 or n_particles < 1:
        raise ValueError(
            f"need at least 1 trajectory of 1 particle, got {n_trajectories} of {n_particles}"
        )
    shape = (n_trajectories, n_particles, 3)
    positions = torch.randn(shape, dtype=torch.float64, generator=generator)
    velocities = torch.randn(shape, dtype=torch.float64, generator=generator)
    velocities *= START_SPEED / velocities.norm(dim=-1, keepdim=True)
    positive = torch.rand(shape[:2], dtype=torch.float64, generator=generator) < 0.5
    return positions, velocities, torch.where(positive, 1.0, -1.0).to(torch.float64)


def charge_forces(positions: Tensor, charges: Tensor) -> Tensor:
    """Forces between the particles, components cut at `LARGEST_FORCE`.

    Args:
        positions: `(3, n_particles, n_trajectories)`.
        charges: `(n_particles, n_trajectories)`.

    Returns:
        forces of the shape of the positions.
    """
    apart = positions[:, :, None] - positions[:, None]
    squared = apart.square().sum(0)
    # A particle is apart from itself by zero, so any finite factor will do there.
    squared.diagonal(dim1=0, dim2=1).fill_(1.0)
    factor = charges[:, None] * charges[None] / (squared * squared.sqrt())
    return (apart * factor).sum(2).clamp(-LARGEST_FORCE, LARGEST_FORCE)


def simulate_charges(
    positions: Tensor,
    velocities: Tensor,
    charges: Tensor,
    n_frames: int,
    *,
    first_frame: int = 0,
    time_step: float = TIME_STEP,
    steps_per_frame: int = STEPS_PER_FRAME,
) -> tuple[Tensor, Tensor]:
    """Integrate many trajectories at once.

    Args:
        positions: `(n_trajectories, n_particles, 3)`, at time 0.
        velocities: same shape, before the kick at time 0.
        charges: `(n_trajectories, n_particles)`.
        n_frames: frames kept.
        first_frame: number of the first one kept; 0 is the start itself.
        time_step: time step.
        steps_per_frame: steps between frames.

    Returns:
        positions and velocities `(n_trajectories, n_frames, n_particles, 3)` float64.

    Raises:
        ValueError: if a trajectory stops being finite.
    """
    done = []
    with progress_bar("N-body trajectories", len(positions)) as advance:
        for first in range(0, len(positions), _BLOCK):
            part = slice(first, first + _BLOCK)
            block = [t[part].to(torch.float64) for t in (positions, velocities, charges)]
            settings = (n_frames, first_frame, time_step, steps_per_frame)
            done.append(_block(block[0], block[1], block[2], *settings))
            advance(len(block[0]), "")
    x, v = (torch.cat(parts) for parts in zip(*done, strict=True))
    if not bool(torch.isfinite(x).all()) or not bool(torch.isfinite(v).all()):
        raise ValueError("a trajectory is not finite: are two particles at the same place?")
    return x, v


def _block(
    positions: Tensor,
    velocities: Tensor,
    charges: Tensor,
    n_frames: int,
    first_frame: int,
    time_step: float,
    steps_per_frame: int,
) -> tuple[Tensor, Tensor]:
    # Trajectories last, so that every operation runs along them.
    x = positions.permute(2, 1, 0).contiguous()
    v = velocities.permute(2, 1, 0).contiguous()
    q = charges.T.contiguous()
    kept = []
    for step in range(steps_per_frame * (first_frame + n_frames - 1) + 1):
        if step:
            v = v + time_step * charge_forces(x, q)
            x = x + time_step * v
        frame, between = divmod(step, steps_per_frame)
        if between == 0 and frame >= first_frame:
            kept.append(torch.stack((x, v)))
    # (frame, x or v, component, particle, trajectory)
    found = torch.stack(kept).permute(1, 4, 0, 3, 2).contiguous()
    return found[0], found[1]
