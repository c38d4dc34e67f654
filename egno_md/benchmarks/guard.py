"""`egno-md benchmark guard`: does the guard find every failure of a run damaged on purpose?"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.guard_cases import CASES, Case, damaged_network, start_of
from egno_md.benchmarks.guard_signals import signal_table
from egno_md.benchmarks.guard_trial import (
    FAILED_BOND_A,
    FAILED_ENERGY_EV,
    Checked,
    Recorded,
    TrialResult,
    run_trial,
)
from egno_md.benchmarks.rollout_subject import find_file
from egno_md.benchmarks.table import Table, benchmark_folder
from egno_md.bundle import Bundle, load_bundle
from egno_md.config import RunConfig, make_job
from egno_md.data.cache import config_hash
from egno_md.data.reference_md import Sampling, sample_windows
from egno_md.models.frozen_graph import Compiling
from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.propagators.guarded import GuardedPropagator
from egno_md.propagators.learned import LearnedPropagator
from egno_md.segment import Segment
from egno_md.state import State
from egno_md.training.sources import start_structure
from egno_md.trajectories.generate import frames_for
from egno_md.trajectories.guard_calibration import (
    calibrate,
    limit_sentences,
    windows_needed,
    with_limits,
)
from egno_md.trajectories.run_models import RunModels
from egno_md.trajectories.run_setup import bond_reference, build_judges, seeded

#: What can be measured.
ROWS: Final = (*CASES, "signals")

#: A small run; the target asks for 16 replicas of 100 ps.
_N_REPLICAS: Final = 4
_LENGTH_PS: Final = 0.5

#: From so many picoseconds of all replicas of a case, network and potential are compiled.
_COMPILE_FROM_PS: Final = 100.0

_BUNDLES: Final = ("ethanol-egno", "ethanol-escn")
_ALARM_RATE: Final = 0.01


def measure(config: BenchmarkConfig) -> list[Table]:
    """Run every case under the guard.

    Args:
        config: `rows` chooses cases out of `ROWS`; `n_replicas` and `length_ps` the size;
            the first seed is that of everything random.

    Raises:
        ValueError: if a row is not known.
    """
    if unknown := [row for row in config.rows if row not in ROWS]:
        raise ValueError(f"no rows {unknown} in {config.name}; there are {', '.join(ROWS)}")
    rows = config.rows or ROWS
    bench = _Bench.of(config)
    cases = {name: CASES[name] for name in rows if name in CASES}
    tables = []
    if cases:
        bench.say_cost(len(cases))
        table = bench.empty_table()
        for name, case in cases.items():
            bench.add_row(table, name, case)
        tables.append(table)
    if "signals" in rows:
        tables.append(
            signal_table(
                bench.bundle, bench.potential, bench.starts, bench.trusted, config.seeds[0]
            )
        )
    return tables


@dataclass(slots=True)
class _Bench:
    """What all cases share: models, windows of the trusted dynamics, limits from them."""

    config: BenchmarkConfig
    bundle: Bundle
    potential: ESCNPotential
    structure: State
    starts: State
    trusted: Segment
    lengths_A: list[float]
    limits: dict[str, Any]
    potential_sha256: str

    @classmethod
    def of(cls, config: BenchmarkConfig) -> _Bench:
        """Load the models, make the windows and set the limits."""
        bundle = load_bundle(_BUNDLES[0], kind="egno")
        guard = load_bundle(_BUNDLES[1], kind="escn")
        potential = ESCNPotential(guard)
        structure = start_structure(str(find_file("ethanol.xyz", None)))
        fast = LearnedPropagator.from_bundle(bundle, structure.molecule)
        windows = sample_windows(
            potential,
            structure,
            windows_needed(_ALARM_RATE),
            fast.n_frames * fast.frame_interval_fs,
            fast.frame_interval_fs,
            (config.temperature_K,),
            # Far from the seeds that training draws its windows with.
            sampling=Sampling(equilibration_fs=400.0, seed=2_000_003 + config.seeds[0]),
            cache=benchmark_folder(config) / "windows",
        )
        lengths = bond_reference(RunModels(learned=bundle), structure)
        run = cls._run_config(config.temperature_K)
        starts, trusted = windows.starts(), windows.segment()
        limits = calibrate(run, fast, potential, starts, trusted, lengths).to_json()
        print("; ".join(limit_sentences(limits)), file=sys.stderr)
        bench = cls(
            config,
            bundle,
            potential,
            structure,
            starts,
            trusted,
            lengths,
            limits,
            str(guard.card.weights_sha256),
        )
        if bench.compiled:
            potential.compile(Compiling())
        return bench

    @staticmethod
    def _run_config(kelvin: float) -> RunConfig:
        """Settings of a guarded run of ethanol."""
        given = {
            "example": "ethanol",
            "temperature_K": kelvin,
            "guard_alarm_rate": _ALARM_RATE,
            "energy_limit_eV": FAILED_ENERGY_EV,
            "energy_frames": "all",
        }
        return make_job(RunConfig, given)

    @property
    def n_replicas(self) -> int:
        """Replicas of every case."""
        return self.config.n_replicas or _N_REPLICAS

    @property
    def length_ps(self) -> float:
        """Length of every replica."""
        return self.config.length_ps or _LENGTH_PS

    @property
    def compiled(self) -> bool:
        """Whether network and potential are compiled."""
        return self.n_replicas * self.length_ps >= _COMPILE_FROM_PS

    def equilibrated(self) -> State:
        """Good starts, one for each replica."""
        return self.starts.replica(torch.arange(self.n_replicas) % self.starts.n_replicas)

    def trial(self, case: Case) -> TrialResult:
        """Run one case.

        Raises:
            ValueError: if the network refuses the molecule.
        """
        seed = self.config.seeds[0]
        start = start_of(case, self.equilibrated(), seed)
        molecule, n = start.molecule, self.trusted.n_frames
        network = damaged_network(
            self.bundle, molecule, case.noise, seed, n, compiled=self.compiled
        )
        fast = Recorded(network)
        settings = self._run_config(case.bath_K or self.config.temperature_K)
        settings = with_limits(settings, self.limits)
        settings = settings.model_copy(update={"energy_frames": case.energy_frames})
        interval = fast.frame_interval_fs
        safe = VelocityVerlet(self.potential, settings.timestep_fs, interval, n)
        judges = build_judges(settings, self.potential, molecule, self.lengths_A, bath=True)
        guard = GuardedPropagator(fast, safe, judges)
        lengths = torch.tensor(self.lengths_A, dtype=torch.float64)
        checked = Checked(guard, self.potential, lengths, self.limits["energy_eV"])
        bath = (settings.temperature_K, self.config.friction_per_ps, seeded(seed, "guard bath"))
        return run_trial(checked, start, frames_for(self.length_ps, interval), bath)

    def _kept_trial(self, name: str, case: Case) -> TrialResult:
        """Run one case, or take what is there of an earlier run that was to be resumed."""
        about = {
            "case": asdict(case),
            "weights": [self.bundle.card.weights_sha256, self.potential_sha256],
            "limits": self.limits,
            "n_replicas": self.n_replicas,
            "length_ps": self.length_ps,
            "bath": [self.config.temperature_K, self.config.friction_per_ps],
            "seed": self.config.seeds[0],
        }
        path = benchmark_folder(self.config) / "cases" / f"{name}-{config_hash(about)}.json"
        if self.config.resume and path.exists():
            return TrialResult.from_json(json.loads(path.read_text(encoding="utf-8")))
        found = self.trial(case)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found.to_json(), indent=1) + "\n", encoding="utf-8")
        return found

    def say_cost(self, n_cases: int) -> None:
        """Time one segment by the network and one by the integrator, and say what is to come."""
        fast = LearnedPropagator.from_bundle(self.bundle, self.structure.molecule)
        safe = VelocityVerlet(self.potential, 0.5, fast.frame_interval_fs, fast.n_frames)
        state, spans = self.equilibrated(), []
        if self.compiled:  # which takes its time once
            self.potential.energies(safe.advance(state, 1).last)
        for propagator in (fast, safe):
            began = time.process_time()
            segment = propagator.advance(state)
            spans.append(time.process_time() - began)
        began = time.process_time()
        for k in range(segment.n_frames):
            self.potential.energies(segment.frame(k))
        check = time.process_time() - began
        segments = frames_for(self.length_ps, fast.frame_interval_fs) / fast.n_frames
        low, high = (n_cases * segments * (span + check) for span in (spans[0], sum(spans)))
        print(
            f"{n_cases} cases of {self.n_replicas} x {self.length_ps:g} ps: {low:.0f} CPU-seconds "
            f"if the network makes all frames, {high:.0f} if it makes none",
            file=sys.stderr,
        )

    def empty_table(self) -> Table:
        """The table without rows."""
        table = Table(
            "guard",
            f"Ethanol by {_BUNDLES[0]} under a guard with {_BUNDLES[1]}: {self.n_replicas} x "
            f"{self.length_ps:g} ps at {self.config.temperature_K:g} K; the guard asks for the "
            "energy of every frame, unless said otherwise. Every frame is checked again: "
            "a failure is a kept frame of the network with a bond more than "
            f"{FAILED_BOND_A} Å off, or a total energy more than {FAILED_ENERGY_EV} eV from that "
            "at the start of its proposal. False alarms: rejected proposals with all energy errors "
            "within the judge's limit and all bonds within that length",
            (
                "case",
                "undetected failures",
                "proposals",
                "rejected, %",
                "false alarms, %",
                "frames by the network, %",
                "largest energy error kept, meV",
                "largest bond deviation kept, Å",
                "rejected by",
                "CPU, s",
            ),
        )
        table.notes += [f"{text[:1].upper()}{text[1:]}." for text in limit_sentences(self.limits)]
        return table

    def add_row(self, table: Table, name: str, case: Case) -> None:
        """Run a case and add its row; a molecule that the network refuses is a row, too."""
        label = f"{name}: {case.what}"
        try:
            found = self._kept_trial(name, case)
        except ValueError as error:
            table.add(label, 0, 0, *(None,) * 5, f"refused: {error}", None)
            return
        n = max(1, found.proposals)
        by = ", ".join(f"{judge} {count}" for judge, count in found.rejections.most_common())
        if found.stopped is not None:
            by += f"; stopped: {found.stopped}"
        table.add(
            label,
            found.undetected,
            found.proposals,
            100.0 * found.n_rejected / n,
            100.0 * found.false_alarms / n,
            100.0 * found.network_share,
            1000.0 * found.largest_energy_eV,
            found.largest_bond_A,
            by or "-",
            found.cpu_s,
        )
