"""Where a training's data comes from: files, or a potential that makes it on the spot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from egno_md.bundle import CARD_FILE
from egno_md.config import TrainConfig
from egno_md.data.frame_files import load_frames
from egno_md.data.frames import LabelledFrames
from egno_md.data.reference_md import Sampling, sample_frames
from egno_md.data.splits import Split, split_by_blocks, split_by_trajectory, split_shuffled
from egno_md.data.structures import read_structure
from egno_md.roles import Potential
from egno_md.state import State

#: From this many trajectories on, whole ones are set aside.
_ENOUGH_TRAJECTORIES = 10


@dataclass(frozen=True, slots=True, eq=False)
class FrameSets:
    """Labelled frames for training, for choosing the best weights, and for the card."""

    training: LabelledFrames
    validation: LabelledFrames
    test: LabelledFrames


#: What a potential may be called.
_SCHEMES = ("sgdml", "openmm", "ase")


def open_potential(name: str, structure: str | None = None) -> Potential:
    """Open a potential by name.

    Args:
        name: `sgdml:FILE`; `openmm:FORCEFIELD`, such as `openmm:amber14`, for the structure;
            `ase:CALCULATOR`, such as `ase:emt`; `xtb:gfn2`; or a bundle of a potential by
            its packaged name or path.
        structure: the structure file that it will be asked about.

    Raises:
        FileNotFoundError: if there is no such file or bundle.
        ValueError: if it is of another kind, or does not suit the structure.
    """
    scheme, colon, rest = name.partition(":")
    if colon and scheme == "sgdml":
        from egno_md.data.sgdml import SGDMLPotential

        return SGDMLPotential.from_npz(rest)
    if colon and scheme == "openmm":
        from egno_md.calculators.potential_from_openmm import OpenMMPotential

        if structure is None:
            raise ValueError(f"{name} needs a structure file whose atoms it is for")
        return OpenMMPotential.from_structure(rest, structure)
    if colon and scheme == "ase":
        from egno_md.calculators.potential_from_ase import ASEPotential

        return ASEPotential.named(rest)
    if colon and scheme == "xtb":
        from egno_md.calculators.potential_from_xtb import XTBPotential

        return XTBPotential(rest)
    from egno_md.bundle import load_bundle
    from egno_md.propagators.potential_bundles import POTENTIAL_KINDS, potential_of

    return potential_of(load_bundle(name, kind=POTENTIAL_KINDS))


def start_structure(path: str) -> State:
    """Read the structure that a potential's dynamics starts from.

    Args:
        path: a structure file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file and the atom that is wrong.
    """
    state = read_structure(path)
    return State.at_rest(state.molecule, state.positions, cell=state.cell)


def work_folder(config: TrainConfig) -> Path:
    """Folder for checkpoints, log and made data.

    Args:
        config: the job.
    """
    if config.work is not None:
        return Path(config.work)
    out = Path(config.out)
    return out.with_name(out.name.removesuffix(".bundle") + ".work")


def check_output(config: TrainConfig) -> None:
    """Make sure before the first step that the bundle can be written after the last.

    Args:
        config: the job.

    Raises:
        ValueError: if the folder's name cannot be a bundle's, or something else is there.
    """
    out = Path(config.out)
    name = out.name.removesuffix(".bundle")
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is None:
        raise ValueError(
            f"out = {config.out!r}: {name!r} cannot name a bundle; allowed are a-z 0-9 . _ -"
        )
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; a bundle is written to a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / CARD_FILE).is_file():
        raise ValueError(f"{out} has files that are not a bundle; give another folder")


def sampling_of(config: TrainConfig, part: int) -> Sampling:
    """How a part of the data is drawn; parts never share dynamics.

    Args:
        config: the job.
        part: 0 training, 1 validation, 2 test.
    """
    return Sampling(
        n_replicas=config.sampling_replicas,
        timestep_fs=config.sampling_timestep_fs,
        equilibration_fs=config.equilibration_fs,
        interval_fs=config.sampling_interval_fs,
        seed=3 * config.seed + part,
    )


def frame_sets(config: TrainConfig) -> FrameSets:
    """Get the labelled frames of a job.

    Args:
        config: names files or a potential.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is not of labelled frames, or there is too little data.
    """
    if config.potential:
        potential = open_potential(config.potential[0], config.structure[0])
        start = start_structure(config.structure[0])
        cache = work_folder(config) / "data"
        made = [
            sample_frames(
                potential,
                start,
                n,
                config.temperatures_K,
                sampling=sampling_of(config, part),
                cache=cache,
            )
            for part, n in enumerate((config.n_samples, config.n_validation, config.n_test))
        ]
        return FrameSets(*made)
    frames = [load_frames(path, config.energy_unit) for path in config.data]
    held_out = [
        [load_frames(path, config.energy_unit) for path in paths]
        for paths in (config.validation_data, config.test_data)
    ]
    if all(held_out):
        return FrameSets(*(LabelledFrames.join(part) for part in (frames, *held_out)))
    if any(held_out):
        raise ValueError("give files for both validation and test, or for neither")
    together = LabelledFrames.join(frames)
    labels = together.trajectory
    if labels is None:
        labels = torch.zeros(together.n_frames, dtype=torch.int64)
    split = cut(config, labels)
    return FrameSets(
        *(together.select(part) for part in (split.training, split.validation, split.test))
    )


def cut(config: TrainConfig, trajectory: Tensor) -> Split:
    """Cut data into three sets as the job says.

    Args:
        config: gives shares and the way.
        trajectory: `(n,)` int64, trajectory of each member, in time order within each.

    Raises:
        ValueError: if nothing is left for a set.
    """
    n = len(trajectory)
    generator = torch.Generator().manual_seed(config.seed)
    shares = (config.validation_share, config.test_share)
    many = len(torch.unique(trajectory)) >= _ENOUGH_TRAJECTORIES
    if config.split == "trajectories" or (config.split == "auto" and many):
        return split_by_trajectory(trajectory, *shares, generator)
    if config.split == "shuffled":
        return split_shuffled(n, *shares, generator)
    return split_by_blocks(n, *shares, gap=n // 100)


def names_only(words: Sequence[str]) -> list[str]:
    """Reduce paths to their last part: a card tells how, not where on whose disk.

    Args:
        words: the arguments of a command.
    """
    return [_name_only(word) for word in words]


def _name_only(word: str) -> str:
    if " " in word:  # a text, not a path
        return word
    head, equals, tail = word.partition("=") if word.startswith("--") else ("", "", word)
    scheme, colon, rest = tail.partition(":")
    if colon and scheme in _SCHEMES:
        return f"{head}{equals}{scheme}:{Path(rest).name}"
    return f"{head}{equals}{Path(tail).name if '/' in tail and tail != 'kcal/mol' else tail}"
