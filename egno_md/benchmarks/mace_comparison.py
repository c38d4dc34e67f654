"""`egno-md benchmark mace`: the small eSCN beside MACE 64x0e, in accuracy and in speed.

Both are trained on the same frames with the same processor time and timed on the systems of
`egno-md benchmark speed`, one evaluation of each in turn. MACE stands in an environment of its
own; `make benchmark-mace` makes one.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks import mace_clock
from egno_md.benchmarks.mace_training import MACEResult, peer_environment, train_mace, write_xyz
from egno_md.benchmarks.potential_data import PotentialTask, potential_task
from egno_md.benchmarks.potential_rows import ROWS, PotentialResult, train_potential
from egno_md.benchmarks.potentials import MEASURES
from egno_md.benchmarks.speed_systems import two_molecules, water_box
from egno_md.benchmarks.table import Cell, Table, benchmark_folder
from egno_md.bundle import load_bundle
from egno_md.data.frames import LabelledFrames
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.state import State

#: The row of `egno-md benchmark potentials` that is held against MACE.
ROW: Final = "small-L2M1"

_DATA_SET: Final = "rmd17-ethanol"
_CPU_MINUTES: Final = 20.0

#: Evaluations of each system that are timed, after some that are not.
_ROUNDS: Final = 9
_WARM: Final = 2

_ACCURACY: Final = {h: key for h, key in MEASURES.items() if not key.startswith("stress")}


def measure(config: BenchmarkConfig) -> list[Table]:
    """Train both and time both.

    Args:
        config: names the data folder, the Python of MACE, one data set at most (molecules),
            budget, folder; the first seed counts.

    Raises:
        FileNotFoundError: if data is missing.
        ValueError: if an option is missing or wrong, or MACE fails.
    """
    if config.mace_python is None:
        raise ValueError(
            f"{config.name} needs --mace-python, the Python of an environment with mace-torch; "
            "`make benchmark-mace DATA=FOLDER` makes one and runs this"
        )
    if config.data is None or len(config.molecules) > 1 or config.device != "cpu":
        raise ValueError(
            f"{config.name} needs --data FOLDER, runs on the cpu and takes one data set at a time"
        )
    python = config.mace_python
    task = potential_task(Path(config.data), (config.molecules or (_DATA_SET,))[0])
    minutes = _CPU_MINUTES if config.cpu_minutes is None else config.cpu_minutes
    folder, seed = benchmark_folder(config) / task.name, config.seeds[0]
    ours = train_potential(
        task,
        ROWS[ROW],
        folder / f"{ROW}-{seed}",
        seed=seed,
        cpu_minutes=minutes,
        resume=config.resume,
        name=ROW,
    )
    theirs = train_mace(
        python,
        task,
        folder / f"mace-{seed}",
        cpu_minutes=minutes,
        seed=seed,
        resume=config.resume,
    )
    bundle = folder / f"{ROW}-{seed}" / f"{task.name}-{ROW}.bundle"
    return [
        _accuracy(task, ours, theirs, minutes),
        _speed(ESCNPotential(load_bundle(bundle)), python, theirs.model, folder),
    ]


def _accuracy(
    task: PotentialTask, ours: PotentialResult, theirs: MACEResult, minutes: float
) -> Table:
    table = Table(
        "mace-accuracy",
        f"{task.name}. {task.split} Each trained with about {minutes:g} processor minutes, "
        f"float32, cutoff 5 Å, {torch.get_num_threads()} thread(s), tested with the weights that "
        "validate best.",
        ("network", "test", *_ACCURACY, "epochs", "CPU min"),
    )
    for test in task.tests:
        for name, result in ((f"eSCN {ROW}", ours), ("MACE 64x0e", theirs)):
            errors = [Cell(result.measures[test][key]) for key in _ACCURACY.values()]
            cost = (Cell(float(result.epochs)), Cell(result.cpu_seconds / 60.0))
            table.add(name, test, *errors, *cost)
    table.notes.append(
        "MACE: its own training command, options in `egno_md/benchmarks/mace_training.py`, a "
        "learning rate that falls by 100 over the training; two layers, products of three, edges "
        "to degree 3; planning and compiling are in the minutes "
        "of eSCN, two short trainings that tell how long an epoch takes are not in those of MACE."
    )
    return table


def _speed(potential: ESCNPotential, python: str, model: Path, folder: Path) -> Table:
    table = Table(
        "mace-speed",
        "Energy and forces of the networks of the table before, with neighbours: processor time, "
        f"{torch.get_num_threads()} thread(s), float32, one evaluation of each in turn, medians "
        f"of {_ROUNDS}, median ratio with its quartiles.",
        ("system", "atoms", "eSCN, ms/atom", "MACE, ms/atom", "ratio", "lower", "upper"),
    )
    known = set(potential.elements)
    systems = {"butane and ethanol": two_molecules(), "water": water_box()}
    systems = {k: s for k, s in systems.items() if set(s.molecule.numbers.tolist()) <= known}
    files = []
    for k, state in enumerate(systems.values()):
        files.append(folder / f"system-{k}.xyz")
        write_xyz(_as_frame(state), files[-1])
    with _clock(python, model, files, folder / "clock.log") as clock:
        for k, (name, state) in enumerate(systems.items()):
            pairs = [(_seconds(potential, state), _asked(clock, k)) for _ in range(_WARM + _ROUNDS)]
            ours, theirs = zip(*pairs[_WARM:], strict=True)
            ratios = [b / a for a, b in pairs[_WARM:]]
            low, middle, high = statistics.quantiles(ratios, n=4)
            n = state.molecule.n_atoms
            each = (1e3 * statistics.median(times) / n for times in (ours, theirs))
            table.add(name, n, *map(Cell, each), Cell(middle), Cell(low), Cell(high))
    table.notes.append("ratio: time of MACE over that of eSCN.")
    return table


def _as_frame(state: State) -> LabelledFrames:
    """A state as a frame without labels that matter."""
    x = state.positions[0].double()
    return LabelledFrames(
        state.molecule.numbers,
        x,
        torch.zeros(1, dtype=torch.float64),
        torch.zeros_like(x),
        torch.tensor([0, len(x)]),
        cell=None if state.cell is None else state.cell[:1].double(),
        pbc=None if state.cell is None else torch.tensor([state.molecule.pbc]),
    )


def _seconds(potential: ESCNPotential, state: State) -> float:
    began = time.process_time()
    potential.evaluate(state)
    return time.process_time() - began


@contextmanager
def _clock(
    python: str, model: Path, files: Sequence[Path], log: Path
) -> Iterator[subprocess.Popen[str]]:
    """A process of the other Python that times MACE when asked.

    Raises:
        ValueError: if it does not start.
    """
    # Isolated, so that it does not find modules that stand beside the script.
    command = [python, "-I", str(Path(mace_clock.__file__).resolve()), str(model), *map(str, files)]
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=peer_environment(),
        ) as process,
    ):
        try:
            _answer(process, "ready")
            yield process
        finally:
            process.kill()


def _asked(clock: subprocess.Popen[str], k: int) -> float:
    """Processor time of MACE for one evaluation of a system, s."""
    if clock.stdin is None:
        raise ValueError("the process that times MACE has no input")
    clock.stdin.write(f"{k}\n")
    clock.stdin.flush()
    return float(_answer(clock, "seconds"))


def _answer(clock: subprocess.Popen[str], word: str) -> str:
    """What follows a word at the start of a line; lines of others are passed over.

    Raises:
        ValueError: if the process ends first.
    """
    if clock.stdout is not None:
        for line in clock.stdout:
            if line.startswith(word):
                return line.removeprefix(word).strip()
    raise ValueError("the process that times MACE ended; see clock.log in the output folder")
