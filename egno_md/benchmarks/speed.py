"""`egno-md benchmark speed`: what energies and forces of eSCN networks cost.

The weights are random: the cost does not see what they say.
"""

from __future__ import annotations

import copy
import math
import resource
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.plain_escn import PlainESCN
from egno_md.benchmarks.speed_systems import one_molecule, two_molecules, water_box
from egno_md.benchmarks.table import Cell, Table
from egno_md.benchmarks.training_step import cpu_seconds
from egno_md.models.escn import ESCN
from egno_md.models.escn_md import ESCNMD
from egno_md.models.frozen_graph import Compiling
from egno_md.models.nearest_neighbours import keep_nearest
from egno_md.models.neighbours import find_neighbours
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.state import State

#: Evaluations of each row that are timed.
ROUNDS: Final = 5

#: Networks of the first table: those of `ESCNMD`.
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "L2 M2 C64, 4 layers": {
        "max_degree": 2,
        "max_order": 2,
        "channels": 64,
        "hidden_channels": 64,
        "n_layers": 4,
    },
    "small: L2 M1 C32, 3 layers": {
        "max_degree": 2,
        "max_order": 1,
        "channels": 32,
        "hidden_channels": 32,
        "n_layers": 3,
    },
}

#: How the second table compiles.
COMPILING: Final = Compiling(strict=True)

#: The published network of the third table.
PUBLISHED: Final[Mapping[str, Any]] = {
    "cutoff_A": 6.0,
    "max_degree": 4,
    "max_order": 2,
    "channels": 64,
    "hidden_channels": 128,
    "n_layers": 4,
    "elements": [1, 6, 8],
}

#: Boxes of the fourth table, in units of 192 atoms.
BOXES: Final = (1, 8, 27, 64, 260)

#: Tables.
ROWS: Final = ("dynamics", "compiled", "published", "scaling")


def measure(config: BenchmarkConfig) -> list[Table]:
    """Time the networks.

    Args:
        config: `rows` chooses tables out of `ROWS`; the first seed is that of the weights.

    Raises:
        ValueError: if a table is not known, or the device is not the CPU.
    """
    if config.device != "cpu":
        raise ValueError(f"this benchmark measures processor time, not device {config.device!r}")
    made: dict[str, Callable[[], Table]] = {
        "dynamics": lambda: _dynamics(config.seeds[0]),
        "compiled": lambda: _compiled(config.seeds[0]),
        "published": lambda: _published(config.seeds[0]),
        "scaling": lambda: _scaling(config.seeds[0]),
    }
    if unknown := [row for row in config.rows if row not in made]:
        raise ValueError(f"no rows {unknown} in {config.name}; there are {list(ROWS)}")
    return [make() for row, make in made.items() if not config.rows or row in config.rows]


def potential(
    preset: Mapping[str, Any], seed: int, compile: bool | Compiling = False
) -> ESCNPotential:
    """A network with random weights, float32.

    Args:
        preset: settings of `ESCNMD`.
        seed: of the weights.
        compile: whether it is compiled, or how.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ESCNPotential(ESCNMD([1, 6, 8], cutoff_A=5.0, **preset), compile=compile)


def _systems() -> dict[str, State]:
    return {"butane and ethanol": two_molecules(), "water": water_box()}


def _n_edges(state: State, cutoff_A: float) -> int:
    near = find_neighbours(state.positions, cutoff_A, state.cell, state.molecule.pbc)
    return int(near.edge_index.shape[1])


def _dynamics(seed: int) -> Table:
    table = Table(
        "speed-dynamics",
        "Energy and forces of eSCN for dynamics (`egno_md.models.escn_md`, conservative, cutoff "
        f"5 Å, all neighbours, float32): processor time per atom, {torch.get_num_threads()} "
        f"thread(s), median of {ROUNDS} evaluations with its quartiles; the neighbour list is "
        "made each time.",
        ("network", "weights", "system", "atoms", "edges", "ms/atom", "lower", "upper"),
    )
    for name, preset in PRESETS.items():
        made = potential(preset, seed)
        weights = sum(p.numel() for p in made.model.parameters())
        for label, state in _systems().items():
            n = state.molecule.n_atoms
            (times,) = cpu_seconds([partial(made.evaluate, state)], ROUNDS)
            low, middle, high = (1e3 * t / n for t in statistics.quantiles(times, n=4))
            cells = (Cell(middle), Cell(low), Cell(high))
            table.add(name, weights, label, n, _n_edges(state, 5.0), *cells)
    return table


def _compiled(seed: int) -> Table:
    table = Table(
        "speed-compiled",
        "The networks of the first table, compiled (`ESCNPotential(..., compile=True)`) against "
        f"the same uncompiled, in turn, float32, {torch.get_num_threads()} thread(s): processor "
        f"time, median of {ROUNDS} evaluations, median ratio with its quartiles; compiling: once, "
        "in this process, compilers it starts not counted; differ: largest difference of a force "
        "over the largest force.",
        (
            "network",
            "system",
            "atoms",
            "eager, ms",
            "compiled, ms",
            "ratio",
            "lower",
            "upper",
            "compiling, s",
            "differ",
        ),
    )
    for name, preset in PRESETS.items():
        for label, state in (("ethanol", one_molecule()), *_systems().items()):
            both = potential(preset, seed), potential(preset, seed, COMPILING)
            expected = both[0].evaluate(state).forces
            ((seconds,),) = cpu_seconds([partial(both[1].evaluate, state)], 1, warm=0)
            found = both[1].evaluate(state).forces
            times = cpu_seconds([partial(one.evaluate, state) for one in both], ROUNDS)
            ratios = [a / b for a, b in zip(*times, strict=True)]
            low, middle, high = (Cell(x) for x in statistics.quantiles(ratios, n=4))
            cost = [1e3 * statistics.median(t) for t in times]
            differ = float((found - expected).abs().max() / expected.abs().max())
            n = state.molecule.n_atoms
            table.add(name, label, n, *cost, middle, low, high, round(seconds), f"{differ:.0e}")
    return table


def _published(seed: int) -> Table:
    table = Table(
        "speed-published",
        "The published eSCN (direct forces, forward only) against the same network one thing at a "
        "time (`egno_md.benchmarks.plain_escn`), the same weights in turn, float32, "
        f"{torch.get_num_threads()} thread(s): processor time, median of {ROUNDS} evaluations, "
        "median ratio with its quartiles; differ: largest difference of a force in float64 over "
        "the largest force. L4 M2, 64 and 128 channels, 4 layers, 20 nearest within 6 Å.",
        ("system", "atoms", "edges", "plain, ms", "ours, ms", "ratio", "lower", "upper", "differ"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ESCN(**PUBLISHED)
    for label, state in _systems().items():
        table.add(label, *_both(model, state))
    return table


@torch.no_grad()
def _both(model: ESCN, state: State) -> tuple[int | float | str | Cell, ...]:
    """Cells of the third table for one system."""
    near = find_neighbours(state.positions, 6.0, state.cell, state.molecule.pbc)
    near = keep_nearest(near, state.positions[0], 20)
    numbers = state.molecule.numbers
    graph = (state.positions[0], numbers, near.edge_index, near.shifts, near.batch, near.n_graphs)

    def pair(dtype: torch.dtype) -> tuple[ESCN, PlainESCN]:
        fast = copy.deepcopy(model).to(dtype)
        fast.freeze()
        return fast, PlainESCN(fast)

    exact = [network(*graph)[1] for network in pair(torch.float64)]
    differ = float((exact[0] - exact[1]).abs().max() / exact[1].abs().max())
    fast, plain = pair(torch.float32)
    times = cpu_seconds([partial(plain, *graph), partial(fast, *graph)], ROUNDS)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    low, middle, high = (Cell(x) for x in statistics.quantiles(ratios, n=4))
    milliseconds = [1e3 * statistics.median(t) for t in times]
    sizes = (state.molecule.n_atoms, near.edge_index.shape[1])
    return (*sizes, *milliseconds, middle, low, high, f"{differ:.0e}")


def _scaling(seed: int) -> Table:
    table = Table(
        "speed-scaling",
        "The small network on growing boxes of water: processor time of one evaluation and largest "
        "memory of the process so far, beside the estimate that decides whether a system is "
        "refused.",
        ("atoms", "edges", "ms/atom", "memory, GB", "estimate, GB"),
    )
    made = potential(PRESETS["small: L2 M1 C32, 3 layers"], seed)
    made.evaluate(water_box())
    sizes, costs = [], []
    for repeats in BOXES:
        state = water_box(repeats)
        n, edges = state.molecule.n_atoms, _n_edges(state, 5.0)
        ((seconds,),) = cpu_seconds([partial(made.evaluate, state)], 1, warm=0)
        sizes.append(math.log(n))
        costs.append(math.log(seconds))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        estimate = made.model.evaluation_bytes(n, edges) / 1e9
        table.add(n, edges, 1e3 * seconds / n, memory, estimate)
    if len(sizes) > 1:
        slope = statistics.linear_regression(sizes, costs).slope
        table.notes.append(f"Cost grows with the number of atoms to the power {slope:.2f}.")
    return table
