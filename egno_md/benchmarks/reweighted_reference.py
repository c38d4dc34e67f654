"""A long reference for a potential that is too dear for one: a cheap copy's run, weighed.

Langevin dynamics with the cheap potential U_c samples exp(-U_c / kT). Frames drawn with weights

    w = exp(-(U - U_c) / kT)

sample exp(-U / kT) of the true potential U: free-energy perturbation (Zwanzig, J. Chem. Phys. 22,
1420 (1954)) applied to frames. Each frame costs one energy of U, where dynamics would cost
hundreds of forces, so the run can be long enough for torsions that turn once in 100 ps. It shares
nothing with Metropolised segments but the two potentials: no proposal, no acceptance.

What it cannot do: reach what the cheap potential never visits. Where the two are unlike, few frames
carry all the weight; that is measured (Kish's effective share, 1 / (n sum w^2) of weights that sum
to 1) and refused below a limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from egno_md.benchmarks.rollout_measures import Record
from egno_md.benchmarks.rollout_reference import TIMESTEP_FS, RolloutPlan
from egno_md.benchmarks.rollout_subject import Subject
from egno_md.data.cache import potential_fingerprint, remember
from egno_md.data.progress import progress_bar
from egno_md.propagators.by_replicas import by_replicas
from egno_md.propagators.classical import Langevin
from egno_md.roles import Potential
from egno_md.state import Molecule, State, maxwell_boltzmann
from egno_md.trajectories.effective_samples import EffectiveSamples, SlowSeries
from egno_md.trajectories.generate import frames_for
from egno_md.trajectories.histograms import Bins, bond_lengths
from egno_md.trajectories.inefficiency import slowest_inefficiencies
from egno_md.trajectories.run_setup import seeded
from egno_md.trajectories.statistics import trajectory_statistics
from egno_md.units import BOLTZMANN_EV_PER_K

#: Replicas of the cheap dynamics; a ps costs less where many move together.
N_REPLICAS: Final = 48

#: Time between the frames that slow coordinates are followed by, fs.
_LOOK_FS: Final = 32.0

#: Every so many of them are weighed.
_WEIGHED_EVERY: Final = 4

#: Smallest effective share of the frames.
_LEAST_SHARE: Final = 0.1

#: Frames whose energies are asked for at once.
_AT_ONCE: Final = 64

Tick = Callable[[int, str], None]


def reweighted_record(
    subject: Subject, cheap: Potential, cheap_name: str, plan: RolloutPlan, cache: Path
) -> Record:
    """Make the run with the cheap potential and weigh it, or take it from the cache.

    Args:
        subject: gives the true potential and the structure.
        cheap: the potential that moves the replicas.
        cheap_name: what it is called in errors.
        plan: temperature, friction, seed, `n_replicas` of the rows that need a start, and
            `reference_ps` and `burn_in_ps` of each of the replicas here.
        cache: folder.

    Returns:
        The statistics of `statistics.py` for the true potential, a block for each replica; with
        them `start_positions` and `start_velocities (n_replicas, n_atoms, 3)` for the rows, drawn
        with the same weights from the second half of the burn-in; `effective_share ()`;
        `cheap_samples (4,)`: mean and slowest effective samples of the cheap dynamics before
        weighing, the frames they were counted in and the time between those, fs.

    Raises:
        ValueError: if the cheap dynamics fails, or is too unlike the true potential.
    """
    first = subject.start
    about = {
        "true": potential_fingerprint(subject.potential, first),
        "cheap": potential_fingerprint(cheap, first),
        "numbers": first.molecule.numbers.tolist(),
        "start": [round(x, 6) for x in first.positions.flatten().tolist()],
        "plan": asdict(plan),
        "n_replicas": N_REPLICAS,
        "every": _WEIGHED_EVERY,
    }
    return remember(cache, "reweighted", about, lambda: _made(subject, cheap, cheap_name, plan))


def energies_of(plan: RolloutPlan) -> int:
    """Count the energies of the true potential that weighing asks for.

    Args:
        plan: as for `reweighted_record`.
    """
    n_burn, n_run = _frames(plan)
    return N_REPLICAS * (n_burn // 2 + n_run) // _WEIGHED_EVERY


def _frames(plan: RolloutPlan) -> tuple[int, int]:
    """Frames of burn-in and run, whole numbers of those that are weighed."""
    n_burn, n_run = (
        _WEIGHED_EVERY * max(1, frames_for(ps, _WEIGHED_EVERY * _LOOK_FS))
        for ps in (plan.burn_in_ps, plan.reference_ps)
    )
    return n_burn, n_run


def log_weights(true_eV: Tensor, cheap_eV: Tensor, temperature_K: float) -> Tensor:
    """Logarithm of each frame's weight; the weights of all sum to 1.

    Args:
        true_eV: `(...)`, energies of the true potential; a frame without one weighs nothing.
        cheap_eV: `(...)`, of the one that made the frames.
        temperature_K: of both.

    Returns:
        `(...)` float64.
    """
    log = -(true_eV.double() - cheap_eV.double()) / (BOLTZMANN_EV_PER_K * temperature_K)
    log = torch.where(torch.isfinite(true_eV), log, -torch.inf)
    return log - log.flatten().logsumexp(0)


def effective_share(log: Tensor) -> float:
    """Kish's effective number of frames over their number: 1 with equal weights.

    Args:
        log: `(...)`, as `log_weights` returns.
    """
    return float(1.0 / (2.0 * log.flatten()).exp().sum()) / log.numel()


def resampled(frames: Tensor, log: Tensor, generator: torch.Generator) -> Tensor:
    """Draw as many frames as there are, each about n w times, in their order.

    Systematic resampling: one random number sets a comb of n equally spaced teeth on the
    cumulated weights, so a frame is drawn floor(n w) or ceil(n w) times.

    Args:
        frames: `(n_replicas, n_frames, n_atoms, 3)`.
        log: `(n_replicas, n_frames)`, as `log_weights` returns.
        generator: draws the number.

    Returns:
        `(n_replicas, n, n_atoms, 3)`: a replica's frames are drawn from its own; rows end in NaN
        up to the longest.
    """
    n = log.numel()
    edges = log.flatten().exp().cumsum(0) * n
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    # The tooth number k stands at k + offset; how many are left of each edge.
    left = (edges - offset).ceil().clamp(0, n)
    left[-1] = n
    times = left.diff(prepend=left.new_zeros(1)).long().reshape(log.shape)
    longest = int(times.sum(1).max())
    drawn = frames.new_full((frames.shape[0], longest, *frames.shape[2:]), float("nan"))
    for replica, row in enumerate(times):
        picked = frames[replica].repeat_interleave(row, 0)
        drawn[replica, : len(picked)] = picked
    return drawn


def _made(subject: Subject, cheap: Potential, cheap_name: str, plan: RolloutPlan) -> Record:
    molecule, noise = subject.start.molecule, seeded(plan.seed, "reweighted reference")
    state = State(
        molecule,
        subject.start.positions[:1].double().expand(N_REPLICAS, -1, -1).clone(),
        maxwell_boltzmann(molecule, N_REPLICAS, plan.temperature_K, noise),
    )
    bath = (plan.temperature_K, plan.friction_per_ps, noise)
    dynamics = Langevin(cheap, TIMESTEP_FS, _LOOK_FS, 1, *bath)
    n_burn, n_run = _frames(plan)
    n_weighed = energies_of(plan) // N_REPLICAS
    with progress_bar(f"{subject.name}: reference", n_burn + n_run + n_weighed) as advance:
        state, warm = _rolled(dynamics, state, n_burn, cheap_name, advance)
        _, run = _rolled(dynamics, state, n_run, cheap_name, advance)
        warm = warm[:, n_burn // 2 :]
        log = _weighed(subject, cheap, run[:, ::_WEIGHED_EVERY], plan, cheap_name, advance)
        early = _weighed(subject, cheap, warm[:, ::_WEIGHED_EVERY], plan, cheap_name, advance)
    record = _statistics(molecule, run, log, noise)
    starts = _starts(warm[:, ::_WEIGHED_EVERY], early, plan.n_replicas, noise)
    return record | {
        "start_positions": starts.double(),
        "start_velocities": maxwell_boltzmann(molecule, plan.n_replicas, plan.temperature_K, noise),
        "effective_share": torch.tensor(effective_share(log), dtype=torch.float64),
        "cheap_samples": _samples(molecule, run),
    }


def _rolled(
    dynamics: Langevin, state: State, n: int, name: str, advance: Tick
) -> tuple[State, Tensor]:
    """The state after n frames and those frames, `(n_replicas, n, n_atoms, 3)` float32."""
    frames = []
    for _ in range(n):
        try:
            segment = dynamics.advance(state)
        except ValueError as error:
            raise ValueError(
                f"the cheap potential {name} does not carry a reference: {error}; train it longer, "
                "or take --reference langevin"
            ) from error
        state = segment.last
        frames.append(segment.positions[:, -1].float())
        advance(1, name)
    return state, torch.stack(frames, 1)


def _weighed(
    subject: Subject, cheap: Potential, x: Tensor, plan: RolloutPlan, name: str, advance: Tick
) -> Tensor:
    """Logarithms of the weights of frames `(n_replicas, n, n_atoms, 3)`."""
    flat, energies = x.flatten(0, 1), []
    for part in torch.split(flat, _AT_ONCE):
        # Both of the frames as they are kept, in float32: the difference must be of one geometry.
        state = State.at_rest(subject.start.molecule, part.double())
        energies.append([_energies(p, state) for p in (subject.potential, cheap)])
        advance(len(part) // x.shape[0], subject.potential_name)
    true, copied = (
        torch.cat(column).reshape(x.shape[:2]) for column in zip(*energies, strict=True)
    )
    log = log_weights(true, copied, plan.temperature_K)
    share = effective_share(log)
    # Not a number is below no limit.
    if not share >= _LEAST_SHARE:
        raise ValueError(
            f"the cheap potential {name} is too unlike {subject.potential_name}: weighing leaves "
            f"{share:.2%} of its frames, needed are {_LEAST_SHARE:.0%}; train it longer, or take "
            "--reference langevin"
        )
    return log


def _energies(potential: Potential, state: State) -> Tensor:
    """Energies `(n_replicas,)` eV; NaN where the potential refuses a geometry."""
    found = torch.full((state.n_replicas,), float("nan"), dtype=torch.float64)
    for rows, made in by_replicas(
        state.n_replicas, lambda rows: potential.energies(state.replica(rows))
    ):
        if not isinstance(made, ValueError):
            found[rows] = made.detach().to("cpu", torch.float64)
    return found


def _statistics(molecule: Molecule, run: Tensor, log: Tensor, generator: torch.Generator) -> Record:
    """Statistics of the weighed frames; how long bonds remember, from all frames."""
    frames = run[:, ::_WEIGHED_EVERY]
    found = trajectory_statistics(
        molecule,
        resampled(frames, log, generator),
        frame_interval_fs=_WEIGHED_EVERY * _LOOK_FS,
        bins=Bins.around(molecule, frames),
    )
    lengths = bond_lengths(run.flatten(0, 1).double(), molecule.bonds)
    series = slowest_inefficiencies([lengths.reshape(*run.shape[:2], -1)])
    return found | {"bond_inefficiency_fs": series * _LOOK_FS}


def _starts(warm: Tensor, log: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Frames for the rows to begin with, `(n, n_atoms, 3)`."""
    weights = log.flatten().exp()
    picked = torch.multinomial(weights, n, replacement=n > len(weights), generator=generator)
    return warm.flatten(0, 1)[picked]


def _samples(molecule: Molecule, run: Tensor) -> Tensor:
    """Effective samples of the cheap dynamics: mean, slowest, frames, spacing."""
    slow = SlowSeries(
        molecule, n_replicas=run.shape[0], n_frames=run.shape[1], frame_interval_fs=_LOOK_FS
    )
    slow.add(run)
    found: EffectiveSamples | None = slow.result()
    counts = [float("nan")] * 4
    if found is not None:
        counts = [found.mean, found.slowest, found.n_frames, found.spacing_fs]
    return torch.tensor(counts, dtype=torch.float64)
