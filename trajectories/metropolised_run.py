"""From settings to Metropolised segments: who proposes, and how far."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import torch

from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.metropolised import Metropolised
from egno_md.roles import Propagator
from egno_md.state import Molecule, State
from egno_md.trajectories.proposal_length import ProposalTuning, tune_proposal
from egno_md.trajectories.run_models import RunModels, network_of

if TYPE_CHECKING:
    from egno_md.config import RunConfig

#: Length of a proposal while a run is brought to its temperature, at most, fs.
EQUILIBRATION_PROPOSAL_FS: Final = 32.0

#: Lengths that tuning chooses from lie between these, each twice the one before, fs.
SHORTEST_FS: Final = 8.0
LONGEST_FS: Final = 1024.0


def proposing(
    config: RunConfig,
    models: RunModels,
    molecule: Molecule,
    proposal_fs: float | None = None,
    *,
    compiled: bool = False,
) -> Propagator:
    """Return what makes the segments, its frame interval being the unit of their length.

    Args:
        config: settings.
        models: from `load_models`.
        molecule: what will move.
        proposal_fs: the one length that is wanted, or None for several.
        compiled: whether the network is compiled.

    Raises:
        ValueError: if the molecule does not suit the network, or the length is not a multiple
            of the time step.
    """
    if models.proposal is not None:
        steps = max(1, round(SHORTEST_FS / config.timestep_fs))
        unit = proposal_fs or steps * config.timestep_fs
        _check_multiple(unit, config.timestep_fs)
        return VelocityVerlet(models.proposal, config.timestep_fs, unit, n_frames=1)
    return network_of(config, models, molecule, compiled=compiled)


def _check_multiple(proposal_fs: float, timestep_fs: float) -> None:
    """Refuse a length between two time steps of the proposing potential."""
    steps = max(1, round(proposal_fs / timestep_fs))
    if abs(proposal_fs / timestep_fs - steps) > 1e-6 * steps:
        raise ValueError(
            f"proposal_fs = {proposal_fs:g} is not a multiple of timestep_fs = {timestep_fs:g}; "
            f"take, for example, {steps * timestep_fs:g}"
        )


def frames_of(proposal: Propagator, proposal_fs: float) -> int:
    """Return how many frames a proposal of some length has.

    Raises:
        ValueError: if the length is not a multiple of the frame interval.
    """
    unit = proposal.frame_interval_fs
    frames = round(proposal_fs / unit)
    if frames < 1 or abs(proposal_fs / unit - frames) > 1e-6 * frames:
        raise ValueError(
            f"proposal_fs = {proposal_fs:g} is not a multiple of the {unit:g} fs in which the "
            f"proposal goes; take, for example, {max(1, frames) * unit:g}"
        )
    return frames


def lengths_to_try(proposal: Propagator) -> tuple[float, ...]:
    """Return the lengths that tuning chooses from, fs."""
    length = proposal.frame_interval_fs
    found: list[float] = []
    while length < SHORTEST_FS - 1e-9:
        length *= 2
    while length <= LONGEST_FS + 1e-9 or not found:
        found.append(length)
        length *= 2
    return tuple(found)


def metropolised(
    config: RunConfig,
    models: RunModels,
    proposal: Propagator,
    proposal_fs: float,
    friction_per_ps: float,
    noise: torch.Generator,
) -> Metropolised:
    """Put the sampler of a run together.

    Args:
        config: settings.
        models: from `load_models`; the potential is the target.
        proposal: from `proposing`.
        proposal_fs: length of a proposal.
        friction_per_ps: of the refresh.
        noise: source of randomness.

    Raises:
        ValueError: if the length is not a multiple of the proposal's frame interval.
    """
    assert models.potential is not None
    return Metropolised(
        proposal,
        models.potential,
        config.temperature_K,
        friction_per_ps,
        noise,
        proposal_frames=frames_of(proposal, proposal_fs),
    )


def equilibration_fs(proposal: Propagator) -> float:
    """Return the length of proposals before the run, whatever the run's own is."""
    unit = proposal.frame_interval_fs
    return unit * max(1, int(EQUILIBRATION_PROPOSAL_FS / unit + 1e-9))


def tuned(
    config: RunConfig,
    models: RunModels,
    start: State,
    noise: Callable[[float], torch.Generator],
    *,
    compiled: bool = False,
) -> ProposalTuning:
    """Choose the length of a run's proposals.

    Args:
        config: settings.
        models: from `load_models`.
        start: equilibrated; the run starts from it, too, as if there had been no tuning.
        noise: source of randomness for a length.
        compiled: whether the network is compiled.
    """
    proposal = proposing(config, models, start.molecule, compiled=compiled)

    def make(length_fs: float) -> Metropolised:
        bath = noise(length_fs)
        return metropolised(config, models, proposal, length_fs, config.friction_per_ps, bath)

    return tune_proposal(make, start, lengths_to_try(proposal), cpu_s=config.tuning_cpu_s)
