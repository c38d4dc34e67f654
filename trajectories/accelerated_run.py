"""Runs that combine a cheap and a trusted model: two time steps, or parareal."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch

from egno_md.propagators.fine_slabs import Recipe, verlet_with
from egno_md.propagators.multiple_time_step import MultipleTimeStep, MultipleTimeStepLangevin
from egno_md.propagators.parareal import Parareal
from egno_md.propagators.thermostat import Thermostatted
from egno_md.roles import Potential, Propagator
from egno_md.trajectories.run_models import Opener, open_potential

if TYPE_CHECKING:
    from egno_md.config import RunConfig


def open_again(opener: Opener | None, name: str, device: str, dtype: str) -> Potential:
    """Open the potential of a run once more, in a worker.

    Args:
        opener: for a potential that is no bundle.
        name: as in the settings.
        device: where networks compute.
        dtype: their number type.
    """
    return open_potential(name, opener, device, dtype)[0]


def trusted_recipe(config: RunConfig, opener: Opener | None, frame_interval_fs: float) -> Recipe:
    """Say how workers make the trusted propagator of a parareal run.

    Args:
        config: settings, with a guard.
        opener: importable by name, or a partial of such a function.
        frame_interval_fs: the network's.
    """
    opened = functools.partial(
        open_again, opener, str(config.guard), config.device, str(config.dtype)
    )
    return functools.partial(verlet_with, opened, config.timestep_fs, frame_interval_fs)


def two_time_steps(
    config: RunConfig,
    inner: Potential,
    outer: Potential,
    n_frames: int,
    bath: tuple[float, float, torch.Generator] | None,
) -> Propagator:
    """Make the propagator of a classical run with an inner potential.

    Args:
        config: settings.
        inner: the cheap potential.
        outer: the accurate one.
        n_frames: of a segment.
        bath: temperature, friction and source of noise; None at constant energy.

    Raises:
        ValueError: if a step is not a multiple of the other.
    """
    outer_fs = config.outer_step_fs
    interval_fs = config.frame_interval_fs or outer_fs
    grid = (inner, outer, config.timestep_fs, outer_fs, interval_fs, n_frames)
    if bath is None:
        return MultipleTimeStep(*grid)
    return MultipleTimeStepLangevin(*grid, *bath)


def parareal(config: RunConfig, coarse: Propagator, fine: Propagator | Recipe) -> Parareal:
    """Make the propagator of a parareal run.

    Args:
        config: settings.
        coarse: the network's.
        fine: the trusted one, or its recipe.

    Raises:
        ValueError: if they do not fit together.
    """
    return Parareal(
        coarse,
        fine,
        n_slabs=config.n_slabs,
        frames_per_slab=config.frames_per_slab,
        tolerance_A=config.tolerance_A,
        n_workers=config.n_workers,
        slabs_at_once=config.slabs_at_once,
        n_threads=config.n_threads,
    )


def close_workers(propagator: Propagator) -> None:
    """End the worker processes of a run, if it has any.

    Args:
        propagator: of the run.
    """
    inside = propagator.propagator if isinstance(propagator, Thermostatted) else propagator
    if isinstance(inside, Parareal):
        inside.close()
