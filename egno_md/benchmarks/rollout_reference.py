"""The classical dynamics that long runs are held against, and the states that both start from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.rollout_measures import Record, roll
from egno_md.benchmarks.rollout_subject import Subject
from egno_md.data.cache import potential_fingerprint, remember
from egno_md.data.progress import progress_bar
from egno_md.propagators.classical import Langevin
from egno_md.state import State, maxwell_boltzmann
from egno_md.trajectories.generate import frames_for
from egno_md.trajectories.histograms import Bins, bond_lengths
from egno_md.trajectories.run_setup import EQUILIBRATION_FRICTION_PER_PS, seeded
from egno_md.trajectories.vibrations import window_frames

#: Time step of the classical dynamics.
TIMESTEP_FS = 0.5

#: Time step inside the windows of segment errors, where a quarter of the error of 0.5 fs counts.
WINDOW_TIMESTEP_FS = 0.25

#: Frames that bins are centred on and that say how long a bond is.
_PROBE_FRAMES = 25


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """How long runs are made.

    Attributes:
        temperature_K: temperature of the bath.
        friction_per_ps: its friction.
        n_replicas: replicas of the learned run.
        length_ps: its length.
        nve_ps: length of the run without a bath.
        n_reference: replicas of the classical run.
        reference_ps: its length.
        burn_in_ps: classical dynamics at high friction before either.
        n_windows: windows for segment errors.
        seed: seed of everything random.
    """

    temperature_K: float
    friction_per_ps: float
    n_replicas: int
    length_ps: float
    nve_ps: float
    n_reference: int
    reference_ps: float
    burn_in_ps: float
    n_windows: int
    seed: int

    @classmethod
    def of(cls, config: BenchmarkConfig) -> RolloutPlan:
        """Fill in what the settings leave open.

        Args:
            config: the settings.
        """
        length = 300.0 if config.length_ps is None else config.length_ps
        n = 16 if config.n_replicas is None else config.n_replicas
        return cls(
            config.temperature_K,
            config.friction_per_ps,
            n,
            length,
            nve_ps=min(10.0, length),
            # As much of both, so that slow torsions get as far; a shorter one has more replicas.
            n_reference=n if config.reference_ps is None else min(64, max(4, 4 * n)),
            reference_ps=config.reference_ps or length,
            burn_in_ps=min(5.0, length),
            n_windows=max(16, min(1000, round(200 * length))),
            seed=config.seeds[0],
        )

    def n_window(self, interval_fs: float) -> int:
        """Frames of a window of the spectra, the same for both runs.

        Args:
            interval_fs: time between frames.

        Raises:
            ValueError: if the shorter run has too few frames for a spectrum.
        """
        shortest = min(self.length_ps, self.reference_ps)
        return window_frames(frames_for(shortest, interval_fs), interval_fs)


def reference_record(
    subject: Subject, plan: RolloutPlan, interval_fs: float, cache: Path
) -> Record:
    """Make the classical run, or take it from the cache.

    Args:
        subject: gives potential and structure.
        plan: lengths, bath, seed.
        interval_fs: time between frames: that of the learned run.
        cache: folder.

    Returns:
        The record; with it `start_positions` and `start_velocities (n_replicas, n_atoms, 3)` for
        the learned runs, of replicas that the reference did not start from.

    Raises:
        ValueError: if the dynamics fails.
    """
    first = subject.start
    about: dict[str, Any] = {
        "potential": potential_fingerprint(subject.potential, first),
        "numbers": first.molecule.numbers.tolist(),
        "start": [round(x, 6) for x in first.positions.flatten().tolist()],
        "interval_fs": interval_fs,
        "n_window": plan.n_window(interval_fs),
        "plan": asdict(plan),
    }
    for of_learned in ("nve_ps", "n_windows", "length_ps"):
        about["plan"].pop(of_learned)
    return remember(cache, "reference", about, lambda: _made(subject, plan, interval_fs))


def _made(subject: Subject, plan: RolloutPlan, interval_fs: float) -> Record:
    molecule = subject.start.molecule
    label = f"{subject.name}: reference"
    n_all = plan.n_reference + plan.n_replicas
    noise = seeded(plan.seed, "reference burn-in")
    state = State(
        molecule,
        subject.start.positions[:1].double().expand(n_all, -1, -1).clone(),
        maxwell_boltzmann(molecule, n_all, plan.temperature_K, noise),
    )
    n_burn, n_run = (frames_for(ps, interval_fs) for ps in (plan.burn_in_ps, plan.reference_ps))
    bath = (plan.temperature_K, EQUILIBRATION_FRICTION_PER_PS, noise)
    warming = Langevin(subject.potential, TIMESTEP_FS, interval_fs, _PROBE_FRAMES, *bath)
    with progress_bar(label, n_burn + n_run) as advance:
        left, probe = n_burn, torch.empty(0)
        while left > 0:
            segment = warming.advance(state, min(left, _PROBE_FRAMES))
            left -= segment.n_frames
            state, probe = segment.last, segment.positions
            advance(segment.n_frames, "burn-in")
        state = state.with_(time_fs=0.0)
        mine = state.replica(torch.arange(plan.n_reference))
        theirs = state.replica(torch.arange(plan.n_reference, n_all))
        bath = (plan.temperature_K, plan.friction_per_ps, seeded(plan.seed, "reference bath"))
        dynamics = Langevin(subject.potential, TIMESTEP_FS, interval_fs, 4, *bath)
        record = roll(
            dynamics,
            mine,
            n_run,
            Bins.around(molecule, probe),
            _lengths(probe, molecule.bonds),
            plan.n_window(interval_fs),
            lambda n: advance(n, ""),
        )
    return record | {"start_positions": theirs.positions, "start_velocities": theirs.velocities}


def _lengths(probe: Tensor, bonds: Tensor) -> Tensor:
    return bond_lengths(probe, bonds).flatten(0, 1).mean(0)
