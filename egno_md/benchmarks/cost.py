"""`egno-md benchmark cost`: processor time per simulated picosecond, engines side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.cost_engines import (
    TIMESTEP_FS,
    Engine,
    OpenMMEngine,
    egno_engine,
    escn_engine,
    xtb_engine,
)
from egno_md.benchmarks.rollout_subject import egno_bundles, find_file, structure_files
from egno_md.benchmarks.table import Cell, Table
from egno_md.bundle import Bundle, load_bundle
from egno_md.calculators.potential_from_xtb import has_tblite
from egno_md.data.progress import progress_bar
from egno_md.state import State, maxwell_boltzmann
from egno_md.training.sources import start_structure
from egno_md.trajectories.run_setup import seeded

#: Engines by the name of their row; the first that is measured is what others are held against.
ROWS: Final = {
    "egno-compiled": "EGNO, compiled",
    "egno": "EGNO, eager",
    "escn": f"velocity Verlet {TIMESTEP_FS:g} fs, eSCN",
    "escn-compiled": f"velocity Verlet {TIMESTEP_FS:g} fs, eSCN, compiled",
    "xtb": f"velocity Verlet {TIMESTEP_FS:g} fs, GFN2-xTB",
    "openmm-reference": f"OpenMM Verlet {TIMESTEP_FS:g} fs, amber14, Reference",
    "openmm-cpu": f"OpenMM Verlet {TIMESTEP_FS:g} fs, amber14, CPU",
}

#: The potential whose cost stands for eSCN.
_ESCN_BUNDLE: Final = "ethanol-escn"

#: The molecule that a force field of OpenMM is at hand for.
_FORCE_FIELD_STRUCTURE: Final = "alanine_dipeptide.pdb"

#: Rounds in which every engine has its turn.
_N_ROUNDS: Final = 6

#: Processor time of each engine, minutes, unless said otherwise.
_CPU_MINUTES: Final = 0.1

Costs = dict[str, list[float]]


def measure(config: BenchmarkConfig) -> list[Table]:
    """Time every engine on every bundle's molecule.

    Args:
        config: names bundles; `rows` chooses among the engines; `n_replicas` replaces 32;
            `cpu_minutes` is the time of each engine.

    Raises:
        FileNotFoundError: if a bundle or structure is missing.
        ValueError: if an option is wrong.
    """
    rows = config.rows or tuple(ROWS)
    for row in rows:
        if row not in ROWS:
            raise ValueError(f"rows has {row!r}; allowed are {', '.join(ROWS)}")
    if config.device != "cpu":
        raise ValueError(f"device is {config.device!r}; processor time is measured on the cpu only")
    many = 32 if config.n_replicas is None else config.n_replicas
    table = _empty(config, many)
    jobs: list[tuple[Bundle | None, Path]] = [
        (bundle, structure)
        for index, bundle in enumerate(egno_bundles(config))
        for structure in structure_files(config, index, bundle)
    ]
    native = any(row.startswith("openmm") for row in rows)
    if native and not any(path.name == _FORCE_FIELD_STRUCTURE for _, path in jobs):
        jobs.append((None, find_file(_FORCE_FIELD_STRUCTURE, config.data)))
        table.notes.append("No bundle of alanine dipeptide is measured: OpenMM stands alone.")
    for bundle, structure in jobs:
        name = structure.stem if bundle is None else f"{bundle.name}, {structure.stem}"
        costs = [_costs(config, rows, bundle, structure, n, table.notes) for n in (1, many)]
        _fill(table, name, start_structure(str(structure)).molecule.n_atoms, *costs)
    table.notes[:] = dict.fromkeys(table.notes)
    return [table]


def _empty(config: BenchmarkConfig, many: int) -> Table:
    return Table(
        "cost",
        "Processor time per simulated picosecond and replica, all engines in one process, "
        f"{config.n_threads} thread, taking turns in {_N_ROUNDS} rounds; mean ± spread over the "
        "rounds. EGNO moves by whole segments, float32. Times EGNO: cost over that of the first "
        "EGNO row in the same round; above 1, EGNO is cheaper. eSCN: "
        f"{_ESCN_BUNDLE}, float32. GFN2-xTB (tblite) and OpenMM move one replica "
        "after the other.",
        (
            "bundle or molecule",
            "atoms",
            "engine",
            "1 replica, CPU s/ps",
            f"{many} replicas, CPU s/ps",
            "1 replica, times EGNO",
            f"{many} replicas, times EGNO",
        ),
    )


def _fill(table: Table, name: str, n_atoms: int, one: Costs, many: Costs) -> None:
    """Add a row for every engine that was measured."""
    for row in one:
        ratios = []
        for costs in (one, many):
            first = next(iter(costs))
            pairs = zip(costs[row], costs[first], strict=True)
            against = first.startswith("egno") and row != first
            ratios.append(Cell.of([mine / theirs for mine, theirs in pairs]) if against else None)
        table.add(name, n_atoms, ROWS[row], Cell.of(one[row]), Cell.of(many[row]), *ratios)


def _costs(
    config: BenchmarkConfig,
    rows: Sequence[str],
    bundle: Bundle | None,
    structure: Path,
    n_replicas: int,
    notes: list[str],
) -> Costs:
    """Processor time of every engine that suits the molecule, s per ps and replica, by round."""
    first = start_structure(str(structure))
    draws = seeded(config.seeds[0], "velocities")
    start = State(
        first.molecule,
        first.positions.double().expand(n_replicas, -1, -1).clone(),
        maxwell_boltzmann(first.molecule, n_replicas, config.temperature_K, draws),
    )
    engines: dict[str, Engine] = {}
    for row in (row for row in ROWS if row in rows):
        make = _maker(row, config, bundle, structure, start, notes)
        if make is None:
            continue
        begun = time.process_time()
        engine = make()
        engine.reset()
        try:
            engine.advance()  # warms up, compiles
        except RuntimeError as error:
            if not row.endswith("-compiled"):
                raise
            notes.append(f"Compiling is not possible here: {str(error).splitlines()[0]}")
            continue
        if row.endswith("-compiled"):
            spent = time.process_time() - begun
            shape = f"{n_replicas} x {first.molecule.n_atoms} atoms"
            notes.append(f"{ROWS[row]}: compiling took {spent:.0f} CPU s for {shape}.")
        engines[row] = engine
    minutes = _CPU_MINUTES if config.cpu_minutes is None else config.cpu_minutes
    return _take_turns(engines, 60.0 * minutes / _N_ROUNDS, f"{structure.stem} x {n_replicas}")


def _maker(
    row: str,
    config: BenchmarkConfig,
    bundle: Bundle | None,
    structure: Path,
    start: State,
    notes: list[str],
) -> Callable[[], Engine] | None:
    """How to make an engine, or None where it does not suit the molecule."""
    if row.startswith("egno"):
        if bundle is None:
            return None
        return lambda: egno_engine(bundle, start, compiled=row == "egno-compiled")
    if row.startswith("openmm"):
        platform = {"openmm-reference": "Reference", "openmm-cpu": "CPU"}[row]
        if structure.suffix.lower() != ".pdb":
            return None
        return lambda: OpenMMEngine("amber14", structure, start, platform)
    if bundle is None:
        return None
    if row == "xtb":
        if has_tblite():
            return lambda: xtb_engine(start, config.n_threads)
        notes.append("GFN2-xTB is left out: tblite is not installed (pip install 'egno-md[qm]').")
        return None
    escn = load_bundle(_ESCN_BUNDLE, kind="escn")
    known = set(start.molecule.numbers.tolist()) <= set(escn.card.elements)
    if not known:
        notes.append(f"eSCN is left out where {_ESCN_BUNDLE} does not know an element.")
    compiled = row == "escn-compiled"
    return (lambda: escn_engine(escn, start, compiled=compiled)) if known else None


def _take_turns(engines: dict[str, Engine], budget_s: float, label: str) -> Costs:
    """Give every engine its turn in every round.

    Args:
        engines: warm.
        budget_s: processor time of a turn, about; at least one piece is done.
        label: for the progress bar.
    """
    costs: Costs = {row: [] for row in engines}
    with progress_bar(label, _N_ROUNDS * len(engines)) as advance:
        for _ in range(_N_ROUNDS):
            for row, engine in engines.items():
                engine.reset()
                engine.advance()  # first forces are no part of a long run
                pieces, begun = 0, time.process_time()
                while pieces == 0 or time.process_time() - begun < budget_s:
                    engine.advance()
                    pieces += 1
                spent = time.process_time() - begun
                costs[row].append(spent / (pieces * engine.span_fs * 1e-3 * engine.n_replicas))
                advance(1, ROWS[row])
    return costs
