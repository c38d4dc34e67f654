"""`egno-md benchmark time-steps`: how long the steps of an accurate potential may be.

Velocity Verlet and two time steps (`MultipleTimeStep`) from the same equilibrated starts at
constant energy: what the total energy does, and how often the accurate potential was asked. Then
both under a Langevin bath: whether hydrogens are as warm as the other atoms.

The slope of a replica's energy is by least squares; its error that of the mean over replicas.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.table import Cell, Table
from egno_md.bundle import load_bundle
from egno_md.data.progress import Advance, progress_bar
from egno_md.models.frozen_graph import Compiling
from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.propagators.multiple_time_step import MultipleTimeStep, MultipleTimeStepLangevin
from egno_md.propagators.potential_bundles import POTENTIAL_KINDS, potential_of
from egno_md.roles import Potential, Propagator
from egno_md.state import State, kinetic_energy, maxwell_boltzmann
from egno_md.trajectories.run_setup import seeded
from egno_md.units import BOLTZMANN_EV_PER_K, EV_PER_AMU_A2_FS2

#: Time between energies that are looked at, fs: a multiple of every step.
LOOK_FS: Final = 60.0

#: Inner step, fs.
INNER_FS: Final = 0.25

#: Steps of velocity Verlet, and outer steps, fs.
VERLET_FS: Final = (0.5, 1.0, 2.0)
OUTER_FS: Final = (2.0, 2.5, 3.0, 4.0, 5.0)

#: Steps, and outer steps, under a bath, fs.
BATH_FS: Final = (1.0, 2.0, 3.0, 4.0)

#: Length without one, ps, and what comes before, fs.
_LENGTH_PS: Final = 10.0
_EQUILIBRATION_FS: Final = 5000.0

#: From this length of all replicas on, ps, compiling pays.
_COMPILE_FROM_PS: Final = 20.0

_POTENTIALS: Final = ("ethanol-escn", "ethanol-distance")


@dataclass(frozen=True, slots=True, eq=False)
class _Followed:
    """A row's run.

    Attributes:
        totals: `(n_replicas, n_looks)`, total energy, meV/atom; NaN after a failure.
        kelvins: `(n_replicas, n_looks, 2)`, of hydrogens and of the other atoms.
        failed_ps: when it failed, or None.
        cpu_s: processor time.
    """

    totals: Tensor
    kelvins: Tensor
    failed_ps: float | None
    cpu_s: float


def measure(config: BenchmarkConfig) -> list[Table]:
    """Follow the energy of every scheme.

    Args:
        config: `potentials`, the accurate bundle and a cheap one; `rows` (see `row_names`),
            `length_ps`, `n_replicas`, temperature, friction of the bath and first seed.

    Raises:
        FileNotFoundError: if a bundle or structure is missing.
        ValueError: if not exactly two potentials are named, or there is no such row.
    """
    for row in config.rows:
        if row not in row_names():
            raise ValueError(f"rows has {row!r}; allowed are {', '.join(row_names())}")
    names = config.potentials or _POTENTIALS
    if len(names) != 2:
        raise ValueError(f"potentials are the accurate one and a cheap one, got {len(names)}")
    length = config.length_ps or _LENGTH_PS
    n = config.n_replicas or 16
    accurate, cheap = (potential_of(load_bundle(name, kind=POTENTIAL_KINDS)) for name in names)
    compiled = n * length >= _COMPILE_FROM_PS
    if compiled:
        for potential in (accurate, cheap):
            if isinstance(potential, ESCNPotential):
                potential.compile(Compiling())
    start = _equilibrated(config, accurate, cheap, n)
    wanted = accurate.evaluate(start).forces
    missed = float((cheap.evaluate(start).forces - wanted).norm() / wanted.norm())
    about = (
        f"{names[0]} with {names[1].split('/')[-1]} inside, which misses {100 * missed:.2g} % of "
        f"the forces (rms): {n} replicas of {length:g} ps from {config.temperature_K:g} K, inner "
        f"steps of {INNER_FS:g} fs, float32{', compiled' if compiled else ''}, seed "
        f"{config.seeds[0]}"
    )
    looks = max(3, round(1e3 * length / LOOK_FS))
    rows = config.rows or row_names()
    with progress_bar("time steps", len(rows)) as done:
        pair = _Pair(accurate, cheap, start, looks, rows, done)
        tables = [_at_constant_energy(pair, about), _under_a_bath(pair, about, config)]
    return [table for table in tables if table.rows]


def row_names() -> tuple[str, ...]:
    """Rows that there are: a scheme and its step, fs; the last two schemes are under a bath."""
    steps = {"verlet": VERLET_FS, "two": OUTER_FS, "langevin": BATH_FS, "two-langevin": BATH_FS}
    return tuple(f"{scheme}-{step:g}" for scheme, some in steps.items() for step in some)


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """What all rows share."""

    accurate: Potential
    cheap: Potential
    start: State
    looks: int
    rows: tuple[str, ...]
    done: Advance


def _at_constant_energy(pair: _Pair, about: str) -> Table:
    """Slopes of the total energy."""
    table = Table(
        "time-steps",
        f"{about}, at constant energy. Slope and rms about it of the total energy; error of the "
        "mean over replicas.",
        (
            *("row", "accurate evaluations per ps", "slope, meV/atom/ps"),
            *("rms about it, meV/atom", "failed after, ps", "CPU s/ps"),
        ),
    )
    rows: dict[str, tuple[str, float, Propagator]] = {
        f"verlet-{step:g}": (
            f"Verlet, {step:g} fs",
            step,
            VelocityVerlet(pair.accurate, step, LOOK_FS, 1),
        )
        for step in VERLET_FS
    }
    for step in OUTER_FS:
        given = (pair.cheap, pair.accurate, INNER_FS, step, LOOK_FS, 1)
        two = MultipleTimeStep(*given, check_resonance=False)
        rows[f"two-{step:g}"] = (f"two time steps, {step:g} fs", step, two)
    for row, (name, step, propagator) in rows.items():
        if row in pair.rows:
            table.add(name, *_energies(_followed(propagator, pair.start, pair.looks), step))
            pair.done(1, name)
    return table


def _under_a_bath(pair: _Pair, about: str, config: BenchmarkConfig) -> Table:
    """Temperatures of hydrogens and of the others."""
    table = Table(
        "time-steps-bath",
        f"{about}, in a Langevin bath of {config.friction_per_ps:g}/ps (BAOAB). Kinetic "
        "temperatures, error of the mean over replicas; hydrogens over others: 1 in equilibrium.",
        ("row", "T of hydrogens, K", "T of other atoms, K", "hydrogens over others"),
    )
    for step in BATH_FS:
        for scheme in ("langevin", "two-langevin"):
            if f"{scheme}-{step:g}" not in pair.rows:
                continue
            name = f"{'Langevin' if scheme == 'langevin' else 'two time steps'}, {step:g} fs"
            draw = seeded(config.seeds[0], name)
            bath = (config.temperature_K, config.friction_per_ps, draw)
            made: Propagator
            if scheme == "langevin":
                made = Langevin(pair.accurate, step, LOOK_FS, 1, *bath)
            else:
                grid = (pair.cheap, pair.accurate, INNER_FS, step, LOOK_FS, 1)
                made = MultipleTimeStepLangevin(*grid, *bath, check_resonance=False)
            table.add(name, *_temperatures(_followed(made, pair.start, pair.looks)))
            pair.done(1, name)
    return table


def _equilibrated(config: BenchmarkConfig, accurate: Potential, cheap: Potential, n: int) -> State:
    """Replicas in equilibrium: the cheap dynamics for long, then the accurate for a little."""
    from importlib import resources

    from egno_md.training.sources import start_structure

    file = config.structures[0] if config.structures else None
    path = file or str(resources.files("egno_md") / "examples" / "ethanol.xyz")
    structure = start_structure(path)
    kelvin, draw = config.temperature_K, seeded(config.seeds[0], "start")
    v = maxwell_boltzmann(structure.molecule, n, kelvin, draw)
    state = State(structure.molecule, structure.positions.double().expand(n, -1, -1).clone(), v)
    for potential, length in ((cheap, _EQUILIBRATION_FS), (accurate, 0.1 * _EQUILIBRATION_FS)):
        state = Langevin(potential, 0.5, length, 1, kelvin, 10.0, draw).advance(state).last
    return state.with_(time_fs=0.0)


def _followed(propagator: Propagator, start: State, looks: int) -> _Followed:
    """Run, and look at energies; a run that fails ends there."""
    n_atoms, hydrogen = start.molecule.n_atoms, start.molecule.numbers == 1
    totals, kelvins, failed = [], [], None
    state, began = start, time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for look in range(looks):
            try:
                segment = propagator.advance(state, 1)
            except ValueError as error:
                failed = look * LOOK_FS * 1e-3
                sys.stderr.write(f"egno-md: {error}\n")
                break
            state = segment.last
            assert segment.potential_energies is not None
            kinetic = kinetic_energy(state.molecule, state.velocities)
            totals.append(1e3 * (segment.potential_energies[:, -1] + kinetic) / n_atoms)
            twice = EV_PER_AMU_A2_FS2 * state.molecule.masses * state.velocities.square().sum(-1)
            each = [twice[:, kind].mean(-1) for kind in (hydrogen, ~hydrogen)]
            kelvins.append(torch.stack(each, 1) / (3 * BOLTZMANN_EV_PER_K))
    spent = time.process_time() - began
    if not totals:
        nothing = torch.full((start.n_replicas, 1), math.nan)
        return _Followed(nothing, nothing[..., None].expand(-1, -1, 2), failed, spent)
    return _Followed(torch.stack(totals, 1), torch.stack(kelvins, 1), failed, spent)


def _energies(run: _Followed, step_fs: float) -> tuple[float | Cell | None, ...]:
    """Cells of a row at constant energy."""
    ps = run.totals.shape[1] * LOOK_FS * 1e-3
    if run.failed_ps is not None or run.totals.shape[1] < 3:
        return 1e3 / step_fs, None, None, run.failed_ps, None
    t = torch.arange(run.totals.shape[1], dtype=torch.float64) * LOOK_FS * 1e-3
    t = t - t.mean()
    e = run.totals.double() - run.totals.double().mean(1, keepdim=True)
    slopes = (e * t).sum(1) / t.square().sum()
    wobble = (e - slopes[:, None] * t).square().mean(1).sqrt()
    return 1e3 / step_fs, _mean(slopes), _mean(wobble), None, run.cpu_s / (len(e) * ps)


def _temperatures(run: _Followed) -> tuple[Cell | None, ...]:
    """Cells of a row under a bath; the first fifth is left out."""
    if run.failed_ps is not None:
        return None, None, None
    late = run.kelvins[:, run.kelvins.shape[1] // 5 :].mean(1)
    return _mean(late[:, 0]), _mean(late[:, 1]), _mean(late[:, 0] / late[:, 1])


def _mean(values: Tensor) -> Cell:
    """Mean over replicas with its standard error."""
    if len(values) == 1:
        return Cell(float(values[0]))
    return Cell(float(values.mean()), float(values.std() / len(values) ** 0.5), len(values))
