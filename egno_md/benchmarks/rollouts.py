"""`egno-md benchmark rollouts`: what bundles do in long runs, without a guard."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.rollout_measures import Heating, Record, heating, roll
from egno_md.benchmarks.rollout_reference import (
    WINDOW_TIMESTEP_FS,
    RolloutPlan,
    reference_record,
)
from egno_md.benchmarks.rollout_subject import Subject, egno_bundles, open_subjects
from egno_md.benchmarks.rollout_tables import RolloutResult, tables_of
from egno_md.benchmarks.segment_errors import segment_errors
from egno_md.benchmarks.table import Table, benchmark_folder
from egno_md.data.cache import config_hash, potential_fingerprint, remember
from egno_md.data.progress import progress_bar
from egno_md.data.reference_md import Sampling, sample_windows
from egno_md.propagators.learned import LearnedPropagator
from egno_md.propagators.thermostat import Thermostatted
from egno_md.state import State
from egno_md.testing.propagator_checks import (
    momentum_changes,
    phase_space_jacobian,
    reversal_error_A,
    symplectic_error,
    volume_error,
)
from egno_md.trajectories.comparison import bins_for, compare
from egno_md.trajectories.generate import frames_for
from egno_md.trajectories.run_setup import seeded

#: What can be measured.
ROWS: Final = ("chained", "nve", "segments", "conservation")

#: Temperatures of the segment errors, K.
SEGMENT_TEMPERATURES_K: Final = (300.0, 500.0)

#: Horizon of the segment errors, fs; the first frame from there on is the last.
_HORIZON_FS: Final = 32.0

#: Runs of more frames than this are worth a minute of compiling.
_LONG_RUN_FRAMES: Final = 10_000

#: Largest molecule whose Jacobian is worked out.
_JACOBIAN_ATOMS: Final = 30


def measure(config: BenchmarkConfig) -> list[Table]:
    """Measure every bundle.

    Args:
        config: names bundles, data folder, lengths; `rows` chooses among chained, nve, segments
            and conservation.

    Raises:
        FileNotFoundError: if a bundle or its potential is missing.
        ValueError: if an option is wrong.
    """
    rows = config.rows or ROWS
    for row in rows:
        if row not in ROWS:
            raise ValueError(f"rows has {row!r}; allowed are {', '.join(ROWS)}")
    plan = RolloutPlan.of(config)
    results = []
    for index, bundle in enumerate(egno_bundles(config)):
        for subject in open_subjects(config, index, bundle):
            results.append(_Bench(config, plan, subject, benchmark_folder(config)).result(rows))
    return tables_of(results, plan)


@dataclass(slots=True)
class _Bench:
    """One bundle on the bench."""

    config: BenchmarkConfig
    plan: RolloutPlan
    subject: Subject
    folder: Path

    def result(self, rows: tuple[str, ...]) -> RolloutResult:
        """Take the measures that are asked for."""
        subject, plan = self.subject, self.plan
        found = RolloutResult(subject.name, subject.potential_name, subject.start.molecule)
        if {"nve", "segments"} & set(rows):
            for kelvin in SEGMENT_TEMPERATURES_K:
                found.segments[kelvin] = self._segments(kelvin)
        if set(rows) <= {"segments"}:
            return found
        interval = self._propagator().frame_interval_fs
        reference = reference_record(subject, plan, interval, self.folder / "references")
        found.reference = reference
        start = State(
            subject.start.molecule, reference["start_positions"], reference["start_velocities"]
        )
        if "chained" in rows:
            found.run = self._kept("chained", lambda: self._chained(start, reference))
            if "bond_counts" in found.run:
                draws = seeded(plan.seed, "comparison")
                found.comparison = compare(found.run, reference, start.molecule, draws)
        if "nve" in rows:
            found.heating = self._heating(start, reference)
        if "conservation" in rows:
            found.kept = self._conservation(start)
        return found

    def _propagator(self, *, n_run: int = 0, double: bool = False) -> LearnedPropagator:
        """The bundle's propagator as a surrogate run builds it, compiled where that pays."""
        return LearnedPropagator.from_bundle(
            self.subject.bundle,
            self.subject.start.molecule,
            device=self.config.device,
            dtype=torch.float64 if double else torch.float32,
            compile=n_run > _LONG_RUN_FRAMES,
        )

    def _kept(self, kind: str, make: Callable[[], Record]) -> Record:
        """A finished measure of this bundle is taken as it is if the job goes on, else redone."""
        subject = self.subject
        about: dict[str, Any] = {
            "weights": subject.bundle.card.weights_sha256,
            "potential": potential_fingerprint(subject.potential, subject.start),
            "start": [round(x, 6) for x in subject.start.positions.flatten().tolist()],
            "plan": asdict(self.plan),
        }
        kind = f"{subject.bundle.name}-{kind}"
        if not self.config.resume:
            (self.folder / f"{kind}-{config_hash(about)}.safetensors").unlink(missing_ok=True)
        return remember(self.folder, kind, about, make)

    def _chained(self, start: State, reference: Record) -> Record:
        """Learned segments with friction and noise between them."""
        plan, name = self.plan, self.subject.name
        n_frames = frames_for(plan.length_ps, self._propagator().frame_interval_fs)
        fast = self._propagator(n_run=n_frames)
        bath = (plan.temperature_K, plan.friction_per_ps, seeded(plan.seed, "run bath"))
        with progress_bar(f"{name}: chained", n_frames) as advance:
            return roll(
                Thermostatted(fast, *bath),
                start,
                n_frames,
                bins_for(reference, start.molecule),
                reference["bond_mean_A"],
                plan.n_window(fast.frame_interval_fs),
                lambda n: advance(n, ""),
            )

    def _heating(self, start: State, reference: Record) -> Heating:
        """Learned segments alone."""
        plan, subject = self.plan, self.subject
        n_frames = frames_for(plan.nve_ps, self._propagator().frame_interval_fs)

        def make() -> Record:
            fast = self._propagator(n_run=n_frames)
            with progress_bar(f"{subject.name}: nve", n_frames) as advance:
                found = heating(
                    fast,
                    subject.potential,
                    start,
                    n_frames,
                    reference["bond_mean_A"],
                    lambda n: advance(n, ""),
                )
            slopes: Tensor = torch.tensor(found.per_replica, dtype=torch.float64)
            return {"slopes": slopes, "n_failed": torch.tensor(found.n_failed)}

        kept = self._kept("nve", make)
        return Heating(tuple(kept["slopes"].tolist()), int(kept["n_failed"]))

    def _segments(self, kelvin: float) -> dict[str, float]:
        """Errors of chained segments from fresh starts, at constant energy."""
        plan, subject = self.plan, self.subject
        fast = self._propagator()
        step = fast.frame_interval_fs
        windows = sample_windows(
            subject.potential,
            subject.start,
            plan.n_windows,
            math.ceil(_HORIZON_FS / step - 1e-6) * step,
            step,
            (kelvin,),
            timestep_fs=WINDOW_TIMESTEP_FS,
            # Far from the seeds that training draws its windows with.
            sampling=Sampling(
                n_replicas=min(32, plan.n_windows),
                equilibration_fs=1000.0 * min(2.0, plan.burn_in_ps),
                seed=1_000_003 + plan.seed,
            ),
            cache=self.folder / "references",
        )
        return segment_errors(fast, subject.potential, windows)

    def _conservation(self, start: State) -> dict[str, float]:
        """What must be kept, in float64."""
        fast = self._propagator(double=True)
        linear, angular = momentum_changes(fast, start)
        kept = {"reversal_A": reversal_error_A(fast, start), "linear": linear, "angular": angular}
        if start.molecule.n_atoms <= _JACOBIAN_ATOMS:
            jacobian = phase_space_jacobian(fast, start)
            kept["volume"] = volume_error(jacobian)
            kept["symplectic"] = symplectic_error(jacobian)
        return kept
