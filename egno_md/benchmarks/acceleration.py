"""`egno-md benchmark acceleration`: effective samples per CPU-second, exact, classical and naive.

All rows sample the same potential from the same starts, in turns, for the same processor time.
What a row gives is held against a long Langevin run with steps of 0.5 fs, and that run against
itself. `--resume` goes on after the last finished turn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.acceleration_rows import (
    LENDER,
    ROWS,
    TWIN,
    YARDSTICK,
    Bench,
    Contestant,
    rows_for,
)
from egno_md.benchmarks.acceleration_runs import Runner
from egno_md.benchmarks.acceleration_tables import Counted, Sampled, joined, tables_of
from egno_md.benchmarks.fitted_force_field import FittedForceField, fit_force_field
from egno_md.benchmarks.reweighted_reference import N_REPLICAS, energies_of, reweighted_record
from egno_md.benchmarks.rollout_measures import Record
from egno_md.benchmarks.rollout_reference import TIMESTEP_FS, RolloutPlan, reference_record
from egno_md.benchmarks.rollout_subject import (
    Subject,
    find_file,
    recorded,
    structure_files,
)
from egno_md.benchmarks.table import Table, benchmark_folder
from egno_md.bundle import Bundle, BundleCard, load_bundle, packaged_bundles
from egno_md.data.cache import (
    config_hash,
    potential_fingerprint,
    read_tensors,
    remember,
    write_tensors,
)
from egno_md.data.progress import progress_bar
from egno_md.models.frozen_graph import Compiling
from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.distance_potential import DistancePotential
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.roles import Potential
from egno_md.state import State
from egno_md.training.sources import open_potential, start_structure
from egno_md.trajectories.effective_samples import EffectiveSamples
from egno_md.trajectories.run_setup import seeded

#: Turns of every row.
N_TURNS: Final = 4

#: Processor time of each row, minutes, unless said otherwise.
_CPU_MINUTES: Final = 10.0

#: With so much time for a row, compiling the networks pays.
_COMPILE_FROM_MINUTES: Final = 3.0

#: A cheap potential that misses no more of the forces decorrelates as fast as the true one.
_ALIKE: Final = 0.05

#: Frames of the reference, fs.
_REFERENCE_INTERVAL_FS: Final = 4.0

_BUNDLE: Final = "ethanol-egno"


@dataclass(frozen=True, slots=True)
class _Cheap:
    """A cheap potential: its name, what fitting took, s, and what it misses of the force."""

    potential: Potential
    name: str
    cpu_s: float | None = None
    missed: float | None = None


def measure(config: BenchmarkConfig) -> list[Table]:
    """Run the rows on one molecule.

    Args:
        config: may name a bundle, its true and a cheap potential and its structure; `rows`,
            `cpu_minutes` of each row, `n_replicas`, `reference_ps`, temperature, friction, first
            seed.

    Raises:
        FileNotFoundError: if a bundle or file is missing.
        ValueError: if an option is wrong.
    """
    for row in config.rows:
        if row not in ROWS:
            raise ValueError(f"rows has {row!r}; allowed are {', '.join(ROWS)}")
    if config.device != "cpu":
        raise ValueError(f"device is {config.device!r}; processor time is measured on the cpu only")
    if len(config.bundles) > 1 or len(config.potentials) > 2:
        raise ValueError("one bundle, one true and one cheap potential are measured at a time")
    minutes = _CPU_MINUTES if config.cpu_minutes is None else config.cpu_minutes
    compiled = minutes >= _COMPILE_FROM_MINUTES
    subject, structure = _subject(config)
    rows = rows_for(config.rows, subject)
    if compiled:
        _compile(subject.potential)
    plan = _plan(config)
    folder = benchmark_folder(config)
    cheap = _cheap(config, subject, structure, folder)
    if compiled:
        _compile(cheap.potential)
    weighed = config.reference == "reweighted"
    _announce(cheap.potential if weighed else None, subject, plan, minutes, len(rows))
    if weighed:
        reference = reweighted_record(
            subject, cheap.potential, cheap.name, plan, folder / "references"
        )
    else:
        reference = reference_record(subject, plan, _REFERENCE_INTERVAL_FS, folder / "references")
    start = State(
        subject.start.molecule, reference["start_positions"], reference["start_velocities"]
    )
    bench = Bench(
        subject,
        cheap.potential,
        cheap.cpu_s,
        plan.temperature_K,
        plan.friction_per_ps,
        plan.seed,
        reference["bond_mean_A"],
        compiled,
    )
    contestants = {row: ROWS[row][1](bench, row) for row in rows}
    about = _about(subject, plan, cheap, minutes)
    if weighed:
        about["reference"] = config.reference
    turns = _turns(contestants, start, reference, 60.0 * minutes / N_TURNS, about, config, folder)
    found = {row: joined(contestants[row], turns[row]) for row in rows}
    lend(found, cheap.missed, reference)
    return tables_of(found, reference, subject, plan, minutes, _notes(cheap))


def _subject(config: BenchmarkConfig) -> tuple[Subject, Path]:
    """The bundle with its true potential and its structure, and the file of that."""
    bundle = load_bundle(config.bundles[0] if config.bundles else _BUNDLE, kind="egno")
    structure = structure_files(config, 0, bundle)[0]
    name = config.potentials[0] if config.potentials else _taught_by(bundle)
    start = start_structure(str(structure))
    bundle.check_elements(start.molecule)
    potential = _opened(name, structure, config.data)
    return Subject(f"{bundle.name}, {structure.stem}", bundle, potential, _short(name), start), (
        structure
    )


def _compile(potential: Potential) -> None:
    """Compile a network; nothing else can be."""
    if isinstance(potential, ESCNPotential):
        potential.compile(Compiling())


def _taught_by(bundle: Bundle) -> str:
    """The packaged eSCN potential of the same molecule, or what the card names."""
    escn = bundle.name.removesuffix("-egno") + "-escn"
    if escn in packaged_bundles():
        return escn
    names = recorded(bundle.card, "potential")
    if not names:
        raise ValueError(
            f"the card of bundle {bundle.name!r} does not say its potential; give --potentials"
        )
    return names[0]


def _short(name: str) -> str:
    """A potential's name without folders."""
    scheme, colon, rest = name.partition(":")
    return f"{scheme}:{Path(rest).name}" if colon else Path(name).name


def _opened(name: str, structure: Path, data: str | None) -> Potential:
    """Open a potential by the name that trainings use."""
    scheme, colon, rest = name.partition(":")
    if colon and scheme == "sgdml":
        name = f"sgdml:{find_file(rest, data)}"
    return open_potential(name, str(structure))


def _plan(config: BenchmarkConfig) -> RolloutPlan:
    length = 20.0 if config.reference_ps is None else config.reference_ps
    weighed = config.reference == "reweighted"
    n = 16 if config.n_replicas is None else config.n_replicas
    return RolloutPlan(
        config.temperature_K,
        config.friction_per_ps,
        n_replicas=n,
        length_ps=length,
        nve_ps=0.0,
        n_reference=N_REPLICAS if weighed else 2 * n,
        reference_ps=length,
        burn_in_ps=0.5 * length if weighed else min(5.0, length),
        n_windows=0,
        seed=config.seeds[0],
    )


def _announce(
    cheap: Potential | None, subject: Subject, plan: RolloutPlan, minutes: float, n_rows: int
) -> None:
    """Say how long all of it will take, from a few steps of the potential of the reference.

    Args:
        cheap: that moves a reweighted reference, None where the true one does.
        subject: gives the true one.
        plan: lengths.
        minutes: processor time of each row.
        n_rows: how many.
    """
    # The burn-in moves the replicas of the rows, too, where the true potential does.
    n = plan.n_reference + (plan.n_replicas if cheap is None else 0)
    x = subject.start.positions[:1].double().expand(n, -1, -1).clone()
    dynamics = VelocityVerlet(cheap or subject.potential, TIMESTEP_FS, 2 * TIMESTEP_FS, 1)
    state = dynamics.advance(State.at_rest(subject.start.molecule, x)).last
    began = time.process_time()
    dynamics.advance(state)
    per_step = (time.process_time() - began) / 2
    n_steps = 1e3 * plan.burn_in_ps / TIMESTEP_FS
    n_steps += 1e3 * plan.reference_ps / TIMESTEP_FS * plan.n_reference / n
    reference = n_steps * per_step / 60.0
    if cheap is not None:
        reference += energies_of(plan) * _energy_cpu_s(subject.potential, state) / 60.0
    compiling = "; compiling the networks takes up to two minutes more in each row"
    print(
        f"egno-md: about {reference + n_rows * minutes:.3g} CPU minutes: reference "
        f"{reference:.3g} (kept for the next time), {n_rows} rows of {minutes:g}"
        + (compiling if minutes >= _COMPILE_FROM_MINUTES else ""),
        file=sys.stderr,
    )


def _energy_cpu_s(potential: Potential, state: State) -> float:
    """Processor time of one energy, about."""
    few = state.replica(torch.arange(min(8, state.n_replicas)))
    potential.energies(few)
    began = time.process_time()
    potential.energies(few)
    return (time.process_time() - began) / few.n_replicas


def _cheap(config: BenchmarkConfig, subject: Subject, structure: Path, folder: Path) -> _Cheap:
    """The cheap potential: the second that is named, a packaged one, or a fitted force field."""
    quick = subject.potential_name.removesuffix("-escn") + "-distance"
    packaged = len(config.potentials) < 2 and quick in packaged_bundles()
    if packaged or len(config.potentials) > 1:
        name = quick if packaged else config.potentials[1]
        potential = _opened(name, structure, config.data)
        if isinstance(potential, ESCNPotential | DistancePotential):
            card = load_bundle(name).card
            missed = card.held_out.get("force_missed_percent")
            share = None if missed is None else missed / 100.0
            return _Cheap(potential, _short(name), _spent(card), share)
        return _Cheap(potential, _short(name))
    about = {
        "potential": potential_fingerprint(subject.potential, subject.start),
        "start": [round(x, 6) for x in subject.start.positions.flatten().tolist()],
        "seed": config.seeds[0],
    }

    def make() -> Record:
        draw = seeded(config.seeds[0], "cheap potential")
        made, cpu_s, missed = fit_force_field(subject.potential, subject.start, draw)
        facts = torch.tensor([cpu_s, missed], dtype=torch.float64)
        return {**made.to_tensors(), "facts": facts}

    kept = remember(folder, "cheap", about, make)
    cpu_s, missed = kept["facts"].tolist()
    return _Cheap(FittedForceField.from_tensors(kept), "fitted bonded force field", cpu_s, missed)


def lend(found: dict[str, Sampled], missed: float | None, reference: Record) -> None:
    """Let the yardstick take samples per ps from the same, or alike, dynamics where that is longer.

    Args:
        found: the rows; the yardstick's is changed.
        missed: of the forces, by the cheap potential, None if unknown.
        reference: what rows are held against; a reweighted one is a run of the cheap potential.
    """
    alike = missed is not None and missed <= _ALIKE
    row = TWIN if TWIN in found else LENDER
    lent = []
    if row in found and (alike or row == TWIN):
        lent.append(found[row].as_lender(f'the row "{ROWS[row][0]}"'))
    if row != TWIN and alike and "cheap_samples" in reference:
        lent.append(_of_reference(reference))
    if lent:
        longest = max(lent, key=lambda run: run.replica_ps)
        found[YARDSTICK] = replace(found[YARDSTICK], lender=longest)


def _of_reference(reference: Record) -> Counted:
    """The cheap dynamics of a reweighted reference, before weighing."""
    mean, slowest, frames, spacing_fs = reference["cheap_samples"].tolist()
    effective = EffectiveSamples(
        mean, slowest, "", int(frames), spacing_fs, 0, int(reference["n_replicas"])
    )
    name = "the reference, the same dynamics with the cheap potential"
    return Counted(name, 1e-3 * frames * spacing_fs, 0, effective)


def _spent(card: BundleCard) -> float | None:
    """Processor time of a training and of making its frames, as far as the card says."""
    parts = [card.training.get(f"{what}cpu_seconds") for what in ("", "sampling_")]
    known = [float(spent) for spent in parts if isinstance(spent, int | float)]
    return sum(known) if known else None


def _notes(cheap: _Cheap) -> Sequence[str]:
    made = (
        "; what it cost to make is not known"
        if cheap.cpu_s is None
        else f", made in {cheap.cpu_s:.0f} CPU-seconds"
    )
    missed = (
        ""
        if cheap.missed is None
        else f"; it misses {100 * cheap.missed:.2g} % of the forces (rms)"
    )
    return (f"Cheap potential: {cheap.name}{made}{missed}.",)


def _about(subject: Subject, plan: RolloutPlan, cheap: _Cheap, minutes: float) -> dict[str, Any]:
    """Everything that a turn depends on besides its row and number."""
    start = subject.start
    return {
        "weights": subject.bundle.card.weights_sha256,
        "potential": potential_fingerprint(subject.potential, start),
        "cheap": potential_fingerprint(cheap.potential, start),
        "start": [round(x, 6) for x in start.positions.flatten().tolist()],
        "plan": asdict(plan),
        "cpu_minutes": minutes,
        "n_turns": N_TURNS,
    }


def _turns(
    contestants: dict[str, Contestant],
    start: State,
    reference: Record,
    cpu_s: float,
    about: dict[str, Any],
    config: BenchmarkConfig,
    folder: Path,
) -> dict[str, list[Record]]:
    """Give every row its turns, or take those that are there."""
    made: dict[str, list[Record]] = {row: [] for row in contestants}
    runners: dict[str, Runner] = {}
    with progress_bar("acceleration", N_TURNS * len(contestants)) as advance:
        for turn in range(N_TURNS):
            for row, contestant in contestants.items():
                key = config_hash({**about, "row": row, "turn": turn})
                path = folder / "turns" / f"{row}-{turn}-{key}.safetensors"
                # A turn after one that was made anew is made anew.
                if config.resume and path.exists() and row not in runners:
                    made[row].append(read_tensors(path)[0])
                else:
                    if row not in runners:
                        lengths = reference["bond_mean_A"]
                        runners[row] = Runner(contestant, start, lengths, N_TURNS)
                        runners[row].warm_up()
                        if made[row]:
                            runners[row].resume(made[row][-1])
                    made[row].append(runners[row].turn(cpu_s))
                    write_tensors(path, made[row][-1], {"row": row, "turn": turn})
                advance(1, row)
    return made
