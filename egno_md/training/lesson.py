"""What a propagator learns from: windows of one molecule, and forces where there is a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from egno_md.bonds import constitution
from egno_md.config import TrainConfig
from egno_md.data.cache import remember
from egno_md.data.progress import progress_bar
from egno_md.data.reference_md import sample_windows
from egno_md.data.windows import Windows
from egno_md.roles import Potential
from egno_md.state import Molecule, State
from egno_md.training.sources import open_potential, sampling_of, start_structure, work_folder
from egno_md.training.window_sources import windows_from_files

#: Frames labelled at once.
_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class ForceFrames:
    """Frames labelled with forces.

    Attributes:
        positions: `(n_frames, n_atoms, 3)`, Å.
        forces: same shape, eV/Å.
        cell: `(n_frames, 3, 3)`, Å, or None without periodicity.
        energies: `(n_frames,)` float64, eV, or None where nobody asked for them.
    """

    positions: Tensor
    forces: Tensor
    cell: Tensor | None = None
    energies: Tensor | None = None

    def like(self, example: Tensor) -> ForceFrames:
        """Return the same frames with the dtype and device of a tensor."""
        return ForceFrames(self.positions.to(example), self.forces.to(example), self.cell)

    def select(self, rows: Tensor) -> ForceFrames:
        """Return some frames."""
        cell = None if self.cell is None else self.cell[rows]
        return ForceFrames(self.positions[rows], self.forces[rows], cell)


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What a network learns about one molecule.

    Attributes:
        name: what the molecule is called among several.
        training: windows for training.
        validation: windows that choose the best weights.
        test: windows for the card.
        force_frames: labelled frames of training and validation, or None without a teacher.
        potential: what made the data, or None when it came from files.
    """

    name: str
    training: Windows
    validation: Windows
    test: Windows
    force_frames: tuple[ForceFrames, ForceFrames] | None = None
    potential: Potential | None = None

    @property
    def molecule(self) -> Molecule:
        """What moves."""
        return self.training.molecule

    @property
    def constitution(self) -> str:
        """Which atoms are bonded to which."""
        return constitution(self.molecule.numbers, self.molecule.bonds)


def read_lessons(config: TrainConfig) -> list[Lesson]:
    """Read or make the data of a job: a lesson for each potential, or one from files.

    Args:
        config: names files or potentials.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the files hold no windows or a potential cannot make them.
    """
    if not config.potential:
        windows = windows_from_files(config)
        molecule = windows[0].molecule
        return [Lesson(constitution(molecule.numbers, molecule.bonds), *windows)]
    lessons = []
    named = zip(config.potential, config.structure, names_of(config.structure), strict=True)
    for potential_name, structure, name in named:
        potential = open_potential(potential_name, structure)
        start = start_structure(structure)
        wanted = (config.n_samples, config.n_validation, config.n_test)
        training, validation, test = (
            _made(config, potential, start, n, part) for part, n in enumerate(wanted)
        )
        frames = (
            _labelled(config, potential, training),
            _labelled(config, potential, validation),
        )
        lessons.append(Lesson(name, training, validation, test, frames, potential))
    return lessons


def read_tests(config: TrainConfig) -> list[Lesson]:
    """Make test windows of molecules that the network never learns from.

    Args:
        config: names their potentials and structures.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a potential cannot make them.
    """
    tests = []
    names = names_of(config.test_structure)
    named = zip(config.test_potential, config.test_structure, names, strict=True)
    for potential_name, structure, name in named:
        potential = open_potential(potential_name, structure)
        windows = _made(config, potential, start_structure(structure), config.n_test, part=2)
        tests.append(Lesson(name, windows, windows, windows, None, potential))
    return tests


def names_of(structures: Sequence[str]) -> list[str]:
    """Name molecules by their structure files, numbered where two are alike.

    Args:
        structures: the files.
    """
    stems = [Path(path).stem for path in structures]
    return [stem if stems.count(stem) == 1 else f"{stem}-{k + 1}" for k, stem in enumerate(stems)]


def _made(
    config: TrainConfig, potential: Potential, start: State, n_windows: int, part: int
) -> Windows:
    """Make windows with a potential, or take them from the work folder."""
    return sample_windows(
        potential,
        start,
        n_windows,
        config.horizon_fs,
        config.frame_interval_fs,
        config.temperatures_K,
        timestep_fs=config.timestep_fs,
        sampling=sampling_of(config, part),
        cache=work_folder(config) / "data",
    )


def _labelled(config: TrainConfig, potential: Potential, windows: Windows) -> ForceFrames:
    """Label the first and the last frame of every window."""
    x = torch.cat([windows.positions0, windows.positions[:, -1]])
    cell = None if windows.cell is None else windows.cell.repeat(2, 1, 1)

    def make() -> dict[str, Tensor]:
        parts = []
        with progress_bar("forces", len(x)) as advance:
            for rows in torch.split(torch.arange(len(x)), _AT_ONCE):
                box = None if cell is None else cell[rows]
                state = State.at_rest(windows.molecule, x[rows], cell=box)
                parts.append(potential.evaluate(state).forces)
                advance(len(rows), "")
        return {"forces": torch.cat(parts)}

    def make_energies() -> dict[str, Tensor]:
        boxes = None if cell is None else torch.split(cell, _AT_ONCE)
        return {
            "energies": torch.cat(
                [
                    potential.energies(
                        State.at_rest(windows.molecule, part, cell=boxes[k] if boxes else None)
                    )
                    for k, part in enumerate(torch.split(x, _AT_ONCE))
                ]
            )
        }

    # Windows remember their potential: their hash stands for both.
    folder, about = work_folder(config) / "data", {"windows": windows.sha256()}
    forces = remember(folder, "forces", about, make)["forces"]
    if not any(config.chain_energy_weights):
        return ForceFrames(x, forces, cell)
    return ForceFrames(
        x, forces, cell, remember(folder, "energies", about, make_energies)["energies"]
    )
