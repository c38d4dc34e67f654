"""`egno-md benchmark doors`: what the doors into ASE and OpenMM cost beside their models."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Final

import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.door_steps import Walker, potential_doors, segment_doors, with_speeds
from egno_md.benchmarks.model_clock import Door, ModelClock, Turn, take_turns
from egno_md.benchmarks.rollout_subject import find_file
from egno_md.benchmarks.speed import PRESETS, potential
from egno_md.benchmarks.speed_systems import water_box
from egno_md.benchmarks.table import Cell, Table
from egno_md.benchmarks.time_step_runs import time_step_table
from egno_md.bonds import guess_bonds
from egno_md.calculators.escn_calculator import ESCNCalculator
from egno_md.models.frozen_graph import Compiling
from egno_md.propagators.learned import LearnedPropagator
from egno_md.state import Molecule, State
from egno_md.training.sources import start_structure

#: Timed turns of every door, and of those with a large system behind them.
ROUNDS: Final = 15
ROUNDS_OF_MANY_ATOMS: Final = 9

#: Frames of a segment.
N_FRAMES: Final = 16

#: Waters of the large system: 201 atoms.
N_WATERS: Final = 67

#: Tables.
ROWS: Final = ("potentials", "many-atoms", "segments", "compiled", "time-steps")

_BUNDLES: Final = ("ethanol-escn", "ethanol-egno")
_COLUMNS: Final = (
    "door", "per", "model, ms", "door, µs", "lower", "upper", "door / model, %",
)  # fmt: skip
_HOW: Final = (
    "door: processor time outside the model, all of the engine included, median of {rounds} turns "
    "with its quartiles, every door in turn; model: inside `evaluate` or `advance`. {threads} "
    "thread(s)."
)


def measure(config: BenchmarkConfig) -> list[Table]:
    """Time the doors.

    Args:
        config: `rows` chooses tables out of `ROWS`; the first seed is that of velocities and
            random weights; `n_replicas` is the number of starts of "time-steps".

    Raises:
        ValueError: if a table is not known, or the device is not the CPU.
    """
    if config.device != "cpu":
        raise ValueError(f"this benchmark measures processor time, not device {config.device!r}")
    seed = config.seeds[0]
    made: dict[str, Callable[[], Table]] = {
        "potentials": lambda: _potentials(seed),
        "many-atoms": lambda: _many_atoms(seed),
        "segments": lambda: _segments(seed, compiled=False),
        "compiled": lambda: _segments(seed, compiled=True),
        "time-steps": lambda: time_step_table(config),
    }
    if unknown := [row for row in config.rows if row not in made]:
        raise ValueError(f"no rows {unknown} in {config.name}; there are {list(ROWS)}")
    return [make() for row, make in made.items() if not config.rows or row in config.rows]


def _potentials(seed: int) -> Table:
    walker = Walker(_ethanol(seed), n_steps=10)
    clock = ModelClock()
    doors = potential_doors(walker, ESCNCalculator(_BUNDLES[0]), clock)
    what = f"Steps of 0.5 fs of ethanol (9 atoms), eSCN of bundle {_BUNDLES[0]}"
    return _table("doors-potentials", what, doors, clock, ROUNDS)


def _many_atoms(seed: int) -> Table:
    state = _water(seed)
    model = potential(PRESETS["small: L2 M1 C32, 3 layers"], seed).model
    clock = ModelClock()
    doors = potential_doors(Walker(state, n_steps=1), ESCNCalculator(model), clock)
    what = f"The same with {state.molecule.n_atoms} atoms of water in a cell, small eSCN"
    return _table("doors-many-atoms", what, doors, clock, ROUNDS_OF_MANY_ATOMS)


def _segments(seed: int, *, compiled: bool) -> Table:
    state = _ethanol(seed)
    how = Compiling(strict=True) if compiled else False
    step_fs = LearnedPropagator.from_bundle(_BUNDLES[1], state.molecule).frame_interval_fs
    propagator = LearnedPropagator.from_bundle(
        _BUNDLES[1], state.molecule, horizon_fs=N_FRAMES * step_fs, compile=how
    )
    clock = ModelClock()
    doors = segment_doors(Walker(state, 1), propagator, clock, forces=not compiled)
    word = "compiled" if compiled else "eager"
    what = f"Segments of ethanol (9 atoms), EGNO of bundle {_BUNDLES[1]}, {word}, float32"
    name = "doors-segments-compiled" if compiled else "doors-segments"
    return _table(name, what, doors, clock, ROUNDS)


def _table(name: str, what: str, doors: Sequence[Door], clock: ModelClock, rounds: int) -> Table:
    how = _HOW.format(rounds=rounds, threads=torch.get_num_threads())
    table = Table(name, f"{what}; {how}", _COLUMNS)
    for door, turns in zip(doors, take_turns(doors, clock, rounds), strict=True):
        table.add(door.name, door.per, *_cells(turns))
    return table


def _cells(turns: Sequence[Turn]) -> tuple[Cell | None, ...]:
    """Cells of a row; no model, no share."""
    low, middle, high = statistics.quantiles([1e6 * turn.outside for turn in turns], n=4)
    inside = statistics.median(turn.inside for turn in turns)
    door = (Cell(middle), Cell(low), Cell(high))
    if inside == 0.0:
        return (None, *door, None)
    share = statistics.median(turn.outside / turn.inside for turn in turns)
    return (Cell(1e3 * inside), *door, Cell(100.0 * share))


def _ethanol(seed: int) -> State:
    """Ethanol with bonds and velocities of 300 K."""
    state = start_structure(str(find_file("ethanol.xyz", None)))
    numbers = state.molecule.numbers
    bonds = guess_bonds(numbers, state.positions[0])
    molecule = Molecule.from_numbers(numbers, bonds=bonds)
    return with_speeds(State.at_rest(molecule, state.positions), 300.0, seed)


def _water(seed: int) -> State:
    """Water in a periodic cell, two lattices long and thinly filled, with velocities of 300 K."""
    full = water_box(2, seed)
    n = 3 * N_WATERS
    molecule = Molecule.from_numbers(full.molecule.numbers[:n], pbc=full.molecule.pbc)
    return with_speeds(State.at_rest(molecule, full.positions[:, :n], cell=full.cell), 300.0, seed)
