"""MACE trained by its own commands, in an environment of its own, on the frames eSCN is given.

MACE needs another e3nn than this package, so its Python is a second one and it is never imported
here. Frames go to it as extended XYZ and its predictions come back the same way; the processor
time of the process is its cost. How many epochs fit into a budget is found by two short trainings.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from egno_md.benchmarks.potential_data import PotentialTask
from egno_md.benchmarks.potential_rows import kept_result
from egno_md.data.frames import LabelledFrames
from egno_md.training.force_matching import error_measures

#: MACE 64x0e: two layers of 64 channels without direction, products of three, edges to degree 3.
NETWORK: Final[Mapping[str, str]] = {
    "model": "ScaleShiftMACE",
    "hidden_irreps": "64x0e",
    "num_interactions": "2",
    "max_ell": "3",
    "correlation": "3",
    "r_max": "5.0",
}

#: How it is trained: its defaults and the options its documentation recommends, with a learning
#: rate that falls by `_DECAY` to the end of the budget, as that of eSCN does.
RECIPE: Final[Mapping[str, str]] = {
    "batch_size": "5",
    "valid_batch_size": "50",
    "lr": "0.01",
    "weight_decay": "5e-7",
    "ema_decay": "0.99",
    "scheduler": "ExponentialLR",
    "E0s": "average",
    "scaling": "rms_forces_scaling",
    "error_table": "PerAtomMAE",
    "default_dtype": "float32",
    "device": "cpu",
    "plot": "False",
}
_SWITCHES: Final = ("--ema", "--amsgrad")
_DECAY: Final = 0.01

#: Epochs of the two trainings that tell how long an epoch takes.
_TRIALS: Final = (1, 3)

#: Where a result is kept.
RESULT: Final = "mace-result.json"


@dataclass(frozen=True, slots=True)
class MACEResult:
    """What MACE reached.

    Attributes:
        measures: errors of each test set, as of eSCN.
        model: its file, which only its own Python opens.
        epochs: passes over the training frames.
        cpu_seconds: processor time of the training, planning not counted.
    """

    measures: dict[str, dict[str, float]]
    model: Path
    epochs: int
    cpu_seconds: float


def train_mace(
    python: str,
    task: PotentialTask,
    folder: Path,
    *,
    cpu_minutes: float,
    seed: int,
    resume: bool = False,
) -> MACEResult:
    """Train MACE within a budget and test it with the weights that validate best.

    Args:
        python: of an environment with mace-torch.
        task: the frames.
        folder: takes its files.
        cpu_minutes: processor time of the training.
        seed: of weights and batches.
        resume: take a finished result in the folder as it is.

    Raises:
        ValueError: if MACE fails, the budget is too short for an epoch, or the folder holds the
            result of another training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = {"set": task.name, "seed": seed, "cpu_minutes": cpu_minutes}
    described |= {"options": {**NETWORK, **RECIPE}}
    finished = folder / RESULT
    if resume and finished.exists():
        values = kept_result(finished, described)
        return MACEResult(**values | {"model": folder / values["model"]})
    sets = {"train": task.training, "valid": task.validation, **task.tests}
    files = {name: folder / f"{name.replace(' ', '')}.xyz" for name in sets}
    for name, frames in sets.items():
        write_xyz(frames, files[name])
    command = _command(files["train"], files["valid"], seed)
    spent = [_trained(python, command, folder / f"trial-{n}", n)[1] for n in _TRIALS]
    epochs = planned_epochs(spent, 60.0 * cpu_minutes)
    model, seconds = _trained(python, command, folder / "training", epochs)
    measures = {name: _tested(python, model, files[name], task.tests[name]) for name in task.tests}
    result = MACEResult(measures, model, epochs, seconds)
    kept = {"result": asdict(result) | {"model": model.relative_to(folder).as_posix()}}
    finished.write_text(json.dumps(kept | described, indent=1) + "\n", encoding="utf-8")
    return result


def planned_epochs(spent: Sequence[float], budget_s: float) -> int:
    """How many epochs fit into a budget.

    Args:
        spent: processor time of trainings of `_TRIALS` epochs, s.
        budget_s: the budget, s.

    Raises:
        ValueError: if not one fits.
    """
    each = max(1e-3, (spent[1] - spent[0]) / (_TRIALS[1] - _TRIALS[0]))
    epochs = math.floor((budget_s - (spent[0] - _TRIALS[0] * each)) / each)
    if epochs < 1:
        raise ValueError(
            f"MACE takes {spent[0]:.0f} CPU-seconds for one epoch, the budget is {budget_s:.0f}; "
            "give more --cpu-minutes"
        )
    return epochs


def write_xyz(frames: LabelledFrames, path: Path) -> None:
    """Write frames as extended XYZ with the keys that MACE looks for.

    Args:
        frames: the frames.
        path: the file.
    """
    import ase.io
    from ase import Atoms

    made = []
    for k in range(frames.n_frames):
        rows = slice(int(frames.ptr[k]), int(frames.ptr[k + 1]))
        cell = None if frames.cell is None else frames.cell[k].numpy()
        pbc = None if frames.pbc is None else frames.pbc[k].numpy()
        atoms = Atoms(
            frames.numbers[rows].numpy(), frames.positions[rows].numpy(), cell=cell, pbc=pbc
        )
        atoms.info["REF_energy"] = float(frames.energies[k])
        atoms.arrays["REF_forces"] = frames.forces[rows].numpy()
        made.append(atoms)
    ase.io.write(path, made, format="extxyz")


def _command(training: Path, validation: Path, seed: int) -> list[str]:
    files = {"train_file": training, "valid_file": validation, "seed": seed, "name": "mace"}
    options: dict[str, Any] = {**NETWORK, **RECIPE, **files}
    keys = {"energy_key": "REF_energy", "forces_key": "REF_forces"}
    pairs = [f"--{key}={value}" for key, value in (options | keys).items()]
    return ["-m", "mace.cli.run_train", *pairs, *_SWITCHES]


def _trained(python: str, command: list[str], folder: Path, epochs: int) -> tuple[Path, float]:
    """Train for so many epochs; the model's file and the processor time, s."""
    gamma = _DECAY ** (1.0 / epochs)
    seconds = run_python(
        python,
        [
            *command,
            f"--work_dir={folder}",
            f"--max_num_epochs={epochs}",
            f"--lr_scheduler_gamma={gamma:.6g}",
        ],
        folder,
    )
    found = sorted(folder.glob("*.model"))
    if not found:
        raise ValueError(f"MACE left no model in {folder}; its output is {folder / 'output.log'}")
    plain = [path for path in found if "compiled" not in path.name and "stage" not in path.name]
    return (plain or found)[0], seconds


def _tested(python: str, model: Path, file: Path, frames: LabelledFrames) -> dict[str, float]:
    """Errors of a model on test frames."""
    import ase.io

    said = model.parent / f"predicted-{file.name}"
    run_python(
        python,
        [
            "-m",
            "mace.cli.eval_configs",
            f"--configs={file}",
            f"--model={model}",
            f"--output={said}",
            "--device=cpu",
            "--default_dtype=float32",
            "--batch_size=16",
        ],
        model.parent,
    )
    predicted = ase.io.read(said, ":", format="extxyz")
    energies = torch.tensor([atoms.info["MACE_energy"] for atoms in predicted]).double()
    forces = torch.from_numpy(np.concatenate([atoms.arrays["MACE_forces"] for atoms in predicted]))
    return error_measures(
        energies - frames.energies, forces.double() - frames.forces, frames.ptr.diff()
    )


def run_python(python: str, arguments: Sequence[str], folder: Path) -> float:
    """Run another Python and return the processor time it took, s.

    Args:
        python: its executable.
        arguments: after it.
        folder: takes its output, output.log.

    Raises:
        ValueError: if it cannot be run or fails, with the end of what it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "output.log"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("w", encoding="utf-8") as output:
        try:
            done = subprocess.run(
                [python, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=peer_environment(),
                check=False,
            )
        except OSError as error:
            raise ValueError(f"cannot run {python!r}: {error.strerror}") from error
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        raise ValueError(f"{python} {' '.join(arguments[:2])} failed, see {log}:\n{end}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def peer_environment() -> dict[str, str]:
    """The environment of the other Python: this one's, without its paths, as many threads."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    threads = str(torch.get_num_threads())
    return kept | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
