"""`egno-md benchmark propagators`: maps over a time step, compared at equal training cost.

On one molecule with the sGDML force field trained on MD17 (MD17-sGDML): a Hamiltonian EGNO, the
same network's force field in velocity Verlet (the control), Direct EGNOs taught by segments or
by forces alone, and rows without a network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.propagator_data import Amounts, Lessons, make_lessons
from egno_md.benchmarks.propagator_rows import FRAME_FS, TRAININGS, Contestant, references
from egno_md.benchmarks.propagator_runs import run
from egno_md.benchmarks.table import Cell, Table, benchmark_folder
from egno_md.data.md17_sgdml import training_geometry
from egno_md.data.sgdml import SGDMLPotential
from egno_md.propagators.total_energy import total_energies
from egno_md.roles import Potential
from egno_md.state import State, kinetic_energy
from egno_md.units import KJ_PER_MOL

#: Processor time of each training, length and replicas of the runs, where nothing is asked for.
_CPU_MINUTES: Final = 2.5
_LENGTH_PS: Final = 5.0
_N_REPLICAS: Final = 16

#: Times at which positions are compared, fs.
_TIMES_FS: Final = (4.0, 8.0, 16.0, 32.0)

#: What is measured of every row, and how columns are called.
_SEGMENT_COLUMNS: Final[Mapping[str, str]] = {
    "cpu": "training, CPU s",
    "calls": "calls per ps",
    **{f"x{t:g}": f"position error / displacement, {t:g} fs" for t in _TIMES_FS},
    **{f"v{t:g}": f"velocity error / change, {t:g} fs" for t in _TIMES_FS},
    "kinetic": "kinetic energy error at 8 fs, mean, kJ/mol",
    "kinetic_std": "its standard deviation, kJ/mol",
    "energy": "true energy error over 16 fs, rms, kJ/mol",
}
_RUN_COLUMNS: Final[Mapping[str, str]] = {
    "failed": "replicas failed",
    "whole": "whole for, ps",
    "hydrogen": "T of H, K",
    "heavy": "T of heavy atoms, K",
    "cost": "CPU ms per ps and replica",
}

Measures = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Runs:
    """How the long runs are done.

    Attributes:
        n_replicas: replicas.
        length_ps: length of each.
        temperature_K: temperature of the bath.
        friction_per_ps: its friction.
    """

    n_replicas: int
    length_ps: float
    temperature_K: float
    friction_per_ps: float

    @classmethod
    def of(cls, config: BenchmarkConfig) -> Runs:
        """Read a job; what it leaves open is 16 replicas of 5 ps."""
        return cls(
            config.n_replicas or _N_REPLICAS,
            config.length_ps or _LENGTH_PS,
            config.temperature_K,
            config.friction_per_ps,
        )


def measure(config: BenchmarkConfig) -> list[Table]:
    """Train the rows and measure them.

    Args:
        config: `data` names a folder with sGDML model files or one such file; `molecules` the
            molecules (ethanol when none), `rows` some of `TRAININGS`, `cpu_minutes` the budget
            of each training.

    Returns:
        Two tables for each molecule: one segment and chains of them, and long runs.

    Raises:
        FileNotFoundError: if there is no model file.
        ValueError: if a row is not known or trainings are there already.
    """
    unknown = [row for row in config.rows if row not in TRAININGS]
    if unknown:
        raise ValueError(f"rows {unknown} are not known; there are {', '.join(TRAININGS)}")
    tables = []
    for name in config.molecules or ("ethanol",):
        file = model_file(config.data, name)
        potential, start = SGDMLPotential.from_npz(file), training_geometry(file)
        tables += compare(potential, start, name, config, Amounts())
    return tables


def model_file(data: str | None, molecule: str) -> Path:
    """Find the sGDML model of a molecule.

    Args:
        data: the file itself, or a folder that holds `sgdml_model_MOLECULE.npz`, however deep.
        molecule: such as "ethanol".

    Raises:
        FileNotFoundError: saying what was looked for.
    """
    wanted = f"sgdml_model_{molecule}.npz"
    if data is not None and Path(data).is_file():
        return Path(data)
    for found in sorted(Path(data).rglob(wanted)) if data is not None else ():
        return found
    where = "give its folder by --data" if data is None else f"{data} does not hold it"
    raise FileNotFoundError(f"no file {wanted}; {where}")


def compare(
    potential: Potential, start: State, name: str, config: BenchmarkConfig, amounts: Amounts
) -> list[Table]:
    """Train the rows for one molecule and measure them.

    Args:
        potential: the true potential.
        start: a geometry with bonds, one replica.
        name: of the molecule.
        config: the job.
        amounts: how much data is made.

    Raises:
        ValueError: if trainings are there already and are not to be resumed.
    """
    folder = benchmark_folder(config)
    lessons = make_lessons(potential, start, config.temperature_K, amounts, folder / f"{name}-data")
    runs, minutes = Runs.of(config), config.cpu_minutes or _CPU_MINUTES
    found: dict[str, list[Measures]] = {}

    def add(contestants: Sequence[Contestant], place: Path, seed: int) -> None:
        for number, contestant in enumerate(contestants):
            notes = place / f"measures-{number}.json"
            one = _known(notes, contestant, runs) if config.resume else None
            if one is None:
                one = _measured(contestant, lessons, runs, seed)
                place.mkdir(parents=True, exist_ok=True)
                content = {"of": _label(contestant, runs), "measures": one}
                notes.write_text(json.dumps(content, indent=1), encoding="utf-8")
            found.setdefault(contestant.name, []).append(one)

    add(references(potential, start.molecule), folder / f"{name}-references", 0)
    for row in config.rows or tuple(TRAININGS):
        for seed in config.seeds:
            place = folder / f"{name}-{row}-{seed}"
            trained = TRAININGS[row](lessons, seed, 60.0 * minutes, place, config.resume)
            add(trained, place, seed)
    return _tables(name, found, runs, minutes, config.seeds, amounts)


def _label(contestant: Contestant, runs: Runs) -> dict[str, object]:
    """What measures depend on besides the trained weights."""
    return {"name": contestant.name, **asdict(runs)}


def _known(notes: Path, contestant: Contestant, runs: Runs) -> Measures | None:
    """Measures of an earlier call, if they are of the same training and the same runs."""
    if not notes.is_file():
        return None
    content = json.loads(notes.read_text(encoding="utf-8"))
    found: Measures = content["measures"]
    return found if content["of"] == _label(contestant, runs) else None


def _measured(contestant: Contestant, lessons: Lessons, runs: Runs, seed: int) -> Measures:
    """Everything that the tables say of one row and seed."""
    measures: Measures = {"cpu": contestant.cpu_seconds, "calls": contestant.calls_per_ps}
    measures |= segment_measures(contestant, lessons)
    if not contestant.runs:
        return measures
    test, bonds = lessons.test, lessons.start.molecule.bonds
    picks = torch.arange(runs.n_replicas) % test.positions.shape[0]
    start = State(test.molecule, test.positions[picks, 0], test.velocities[picks, 0])
    ends = lessons.start.positions[0][bonds]
    result = run(
        contestant.frames,
        start,
        (ends[:, 0] - ends[:, 1]).norm(dim=-1),
        temperature_K=runs.temperature_K,
        friction_per_ps=runs.friction_per_ps,
        length_ps=runs.length_ps,
        seed=seed,
    )
    return measures | {
        "failed": float(result.n_failed),
        "whole": result.whole_ps,
        "hydrogen": result.hydrogen_K,
        "heavy": result.heavy_K,
        "cost": result.cpu_ms_per_ps,
    }


def segment_measures(contestant: Contestant, lessons: Lessons) -> Measures:
    """Errors of chained segments against the test paths.

    Args:
        contestant: makes frames every 4 fs.
        lessons: gives the paths and the true potential.

    Returns:
        Errors under the keys of `_SEGMENT_COLUMNS`.
    """
    test, molecule = lessons.test, lessons.test.molecule
    every = test.n_steps // round(_TIMES_FS[-1] / FRAME_FS)
    true_x, true_v = test.positions[:, ::every], test.velocities[:, ::every]
    n = true_x.shape[1] - 1
    x, v = contestant.frames(true_x[:, 0], true_v[:, 0], n)
    measures: Measures = {}

    def over_change(got: Tensor, true: Tensor, k: int) -> float:
        return float((got[:, k - 1] - true[:, k]).norm() / (true[:, k] - true[:, 0]).norm())

    for t in _TIMES_FS:
        k = round(t / FRAME_FS)
        measures[f"x{t:g}"] = over_change(x, true_x, k)
        measures[f"v{t:g}"] = over_change(v, true_v, k)
    kinetic = kinetic_energy(molecule, v[:, 1]) - kinetic_energy(molecule, true_v[:, 2])
    measures["kinetic"] = float(kinetic.mean()) / KJ_PER_MOL
    measures["kinetic_std"] = float(kinetic.std()) / KJ_PER_MOL

    def total(x: Tensor, v: Tensor) -> Tensor:
        if not bool((torch.isfinite(x) & torch.isfinite(v)).all()):
            return torch.full(x.shape[:1], float("nan"), dtype=torch.float64)  # it exploded
        return total_energies(lessons.potential, State(molecule, x, v))

    off = total(x[:, 3].contiguous(), v[:, 3].contiguous()) - total(true_x[:, 0], true_v[:, 0])
    measures["energy"] = float(off.square().mean().sqrt()) / KJ_PER_MOL
    return measures


def _tables(
    molecule: str,
    found: Mapping[str, Sequence[Measures]],
    runs: Runs,
    minutes: float,
    seeds: Sequence[int],
    amounts: Amounts,
) -> list[Table]:
    kelvin = ", ".join(f"{t:g}" for t in amounts.temperatures_K)
    segments = Table(
        f"{molecule}-segments",
        f"Propagators of {molecule} (MD17-sGDML): {minutes:g} CPU minutes of training each on one "
        f"core. Learned from {amounts.training} windows of {amounts.horizon_fs:g} fs at {kelvin} "
        f"K, tested on {amounts.test} windows at {runs.temperature_K:g} K made with steps of "
        f"{amounts.test_timestep_fs:g} fs; seeds {', '.join(map(str, seeds))}, mean and standard "
        "deviation. Segments are chained up to the time given",
        ("propagator", *_SEGMENT_COLUMNS.values()),
    )
    long = Table(
        f"{molecule}-runs",
        f"The same propagators in long runs: {runs.n_replicas} replicas of {runs.length_ps:g} ps "
        f"at {runs.temperature_K:g} K, friction {runs.friction_per_ps:g}/ps acting every 8 fs, no "
        "guard; failed: a bond more than 0.5 Å off, or not a number",
        ("propagator", *_RUN_COLUMNS.values()),
    )
    for name, repeats in found.items():
        segments.add(name, *(_cell(repeats, key) for key in _SEGMENT_COLUMNS))
        if "failed" in repeats[0]:
            long.add(name, *(_cell(repeats, key) for key in _RUN_COLUMNS))
    segments.notes.append(
        "Calls are of the network or the potential in a chain without thermostat; a call of "
        "Direct EGNO has no backward pass. Nothing is compiled."
    )
    long.notes.append(
        "Temperatures are means over whole replicas after a tenth of the run. All replicas are "
        "moved in one batch; the thermostat is not in the cost."
    )
    return [segments, long]


def _cell(repeats: Sequence[Measures], key: str) -> Cell | None:
    values = [value for one in repeats if (value := one.get(key)) is not None]
    return Cell.of(values) if values else None
