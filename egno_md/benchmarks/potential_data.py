"""Data sets that potentials are measured on, cut into training, validation and test.

The data folder holds npz files, as listed in `_FILES`; every file is in eV or says its unit,
but for mlearn's stresses (`egno_md.data.stress_labels`). Validation frames choose the weights
and test frames are looked at once: no frame stands in two sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from egno_md.benchmarks.decorrelated_split import closest, frame_distances, split_by_distance
from egno_md.data.frame_files import load_frames
from egno_md.data.frames import LabelledFrames
from egno_md.data.splits import Split, split_shuffled

#: Files of each set, in the data folder.
_FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "rmd17-ethanol": ("md17/rmd17_ethanol_train1000.npz", "md17/rmd17_ethanol_test1000.npz"),
    "ccsdt-ethanol": ("md17/ethanol_ccsd_t_train1000.npz",),
    "acac-300K": (
        "molecules/acac_train_300K.npz",
        "molecules/acac_test_MD_300K.npz",
        "molecules/acac_test_MD_600K.npz",
    ),
    "3bpa": ("molecules/3BPA_train_mixedT.npz", "molecules/3BPA_train_300K.npz"),
    "water": ("water/deepmd_water_pbe0ts_192.npz",),
    "mlearn-Li": ("bulk/mlearn_Li_training.npz", "bulk/mlearn_Li_test.npz"),
    "mlearn-Si": ("bulk/mlearn_Si_training.npz", "bulk/mlearn_Si_test.npz"),
    "mlearn-Mo": ("bulk/mlearn_Mo_training.npz", "bulk/mlearn_Mo_test.npz"),
    "oc20": ("oc20/oc20_relaxations_25.npz",),
}

#: Level of theory of each kind of set, and what to cite.
_ORIGINS: Final[Mapping[str, tuple[str, str]]] = {
    "rmd17": (
        "PBE/def2-SVP",
        "Christensen & von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020)",
    ),
    "ccsdt": ("CCSD(T)/cc-pVTZ", "Chmiela et al., Nat. Commun. 9, 3887 (2018)"),
    "acac": ("DFT of the acac set, see its paper", "Batatia et al., arXiv 2205.06643"),
    "3bpa": ("DFT of the 3BPA set, see its paper", "Kovacs et al., J. Chem. Theory Comput. (2021)"),
    "water": ("PBE0+TS", "Zhang et al., Phys. Rev. Lett. 120, 143001 (2018)"),
    "mlearn": ("PBE", "Zuo et al., J. Phys. Chem. A 124, 731 (2020)"),
    "oc20": ("RPBE", "Chanussot et al., ACS Catal. (2021), arXiv 2010.09990"),
}

#: Frames taken of one relaxation, for training and held out.
_PER_RELAXATION: Final = (40, 15)

#: Relaxations that validate and test, if so many can be spared.
_HELD_OUT_RELAXATIONS: Final = (3, 4)

#: Seed of every split: the same sets for all rows and seeds.
_SPLIT_SEED: Final = 0


@dataclass(frozen=True, slots=True, eq=False)
class PotentialTask:
    """One data set.

    Attributes:
        name: as on the command line.
        training: frames that are learnt from.
        validation: frames that choose the weights.
        tests: test frames by name.
        split: sentences on the data and how it was cut.
        notes: sentences on what others reached.
        level_of_theory: what labelled the frames.
        citation: what to cite.
    """

    name: str
    training: LabelledFrames
    validation: LabelledFrames
    tests: Mapping[str, LabelledFrames]
    split: str
    notes: tuple[str, ...] = ()
    level_of_theory: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        """Check that no frame stands in two sets.

        Raises:
            ValueError: naming the sets.
        """
        seen = {"training": set(frame_keys(self.training))}
        for name, frames in (("validation", self.validation), *self.tests.items()):
            mine = set(frame_keys(frames))
            for other, keys in seen.items():
                if other in ("training", "validation") and mine & keys:
                    raise ValueError(
                        f"{self.name}: {len(mine & keys)} frames stand in both the {other} and "
                        f"the {name} set"
                    )
            seen[name] = mine


def data_sets(folder: Path, names: tuple[str, ...]) -> list[str]:
    """Names of the sets to measure.

    Args:
        folder: the data folder.
        names: those asked for; none are all whose files are there.

    Raises:
        FileNotFoundError: if the folder or a file of a set asked for is missing.
        ValueError: if a set is not known.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    if unknown := [name for name in names if name not in _FILES]:
        raise ValueError(f"no data sets {unknown}; there are {list(_FILES)}")
    for name in names:
        for file in _FILES[name]:
            if not (folder / file).is_file():
                raise FileNotFoundError(f"data set {name} needs the file {folder / file}")
    found = names or tuple(
        name for name, files in _FILES.items() if all((folder / f).is_file() for f in files)
    )
    if not found:
        raise FileNotFoundError(
            f"{folder} has the files of none of the data sets {', '.join(_FILES)}; "
            f"rmd17-ethanol for example needs {', '.join(_FILES['rmd17-ethanol'])}"
        )
    return list(found)


def potential_task(folder: Path, name: str) -> PotentialTask:
    """Read one set and cut it.

    Args:
        folder: the data folder.
        name: of the set, as `data_sets` gives it.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged or its frames do not fit.
    """
    kind = name.partition("-")[0]
    task = _MAKERS[kind](name, *(folder / file for file in _FILES[name]))
    theory, citation = _ORIGINS[kind]
    return replace(task, level_of_theory=theory, citation=citation)


def frame_keys(frames: LabelledFrames) -> list[bytes]:
    """What makes a frame the same as another: elements, positions to 1e-4 Å, and cell.

    Args:
        frames: the frames.
    """
    keys = []
    for k in range(frames.n_frames):
        rows = slice(int(frames.ptr[k]), int(frames.ptr[k + 1]))
        parts = [frames.numbers[rows], (frames.positions[rows] * 1e4).round().long()]
        if frames.cell is not None:
            parts.append((frames.cell[k] * 1e4).round().long())
        keys.append(b"".join(part.contiguous().numpy().tobytes() for part in parts))
    return keys


def distinct(frames: LabelledFrames) -> LabelledFrames:
    """Keep the first of frames that stand there more than once.

    Args:
        frames: the frames.
    """
    first = {key: k for k, key in reversed(list(enumerate(frame_keys(frames))))}
    return frames.select(sorted(first.values()))


def _cut(name: str, frames: LabelledFrames, split: Split, text: str) -> PotentialTask:
    return PotentialTask(
        name,
        frames.select(split.training),
        frames.select(split.validation),
        {"test": frames.select(split.test)},
        text,
    )


def _validated(
    name: str, training: Path, tests: Mapping[str, Path], n_validation: int, text: str, *notes: str
) -> PotentialTask:
    """Given training and test files; some training frames validate."""
    held_out = {label: load_frames(file, "eV") for label, file in tests.items()}
    frames = distinct(load_frames(training, "eV"))
    shared = {key for test in held_out.values() for key in frame_keys(test)}
    own = [k for k, key in enumerate(frame_keys(frames)) if key not in shared]
    if len(own) < frames.n_frames:
        text += f" {frames.n_frames - len(own)} training frames that are test frames too left out."
    if not n_validation < len(own):
        raise ValueError(f"{training}: {len(own)} frames leave none beside {n_validation}")
    order = torch.tensor(own)[torch.randperm(len(own), generator=_generator())]
    return PotentialTask(
        name,
        frames.select(order[n_validation:]),
        frames.select(order[:n_validation]),
        held_out,
        f"{len(own) - n_validation} frames for training, {n_validation} of the training file for "
        f"validation, test as given ({', '.join(str(t.n_frames) for t in held_out.values())}). "
        + text,
        notes,
    )


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(_SPLIT_SEED)


def _rmd17(name: str, training: Path, test: Path) -> PotentialTask:
    return _validated(
        name,
        training,
        {"test": test},
        50,
        "Revised MD17, PBE/def2-SVP.",
        "Peers with 1000 training frames, recalled, not read: force MAE of MACE 2.1, of NequIP "
        "2.8 meV/Å.",
    )


def _acac(name: str, training: Path, at_300: Path, at_600: Path) -> PotentialTask:
    return _validated(
        name,
        training,
        {"300 K": at_300, "600 K": at_600},
        50,
        "Acetylacetone; trained at 300 K alone.",
        "Peers, recalled, not read: force RMSE MACE 5.1 (300 K) and 22.4 (600 K) meV/Å.",
    )


def _mlearn(name: str, training: Path, test: Path) -> PotentialTask:
    return _validated(
        name,
        training,
        {"test": test},
        20,
        "PBE crystals: strained, with vacancies and surfaces, and dynamics; with stresses.",
        "Numbers of MTP, GAP and others are in the data set's paper (Zuo et al. 2020, J. Phys. "
        "Chem. A 124, 731).",
    )


def _ccsdt(name: str, file: Path) -> PotentialTask:
    given = load_frames(file, "kcal/mol")
    frames = distinct(given)
    split = split_shuffled(frames.n_frames, 0.05, 0.15, _generator())
    return _cut(
        name,
        frames,
        split,
        f"CCSD(T)/cc-pVTZ ethanol; own split of the {given.n_frames} published training frames "
        f"(the test file was not at hand; {given.n_frames - frames.n_frames} repeated ones left "
        f"out): {len(split.training)}/{len(split.validation)}/{len(split.test)}.",
    )


def _3bpa(name: str, mixed: Path, at_300: Path) -> PotentialTask:
    both = LabelledFrames.join([load_frames(mixed, "eV"), load_frames(at_300, "eV")])
    frames = distinct(both)
    split = split_shuffled(frames.n_frames, 0.05, 0.15, _generator())
    return _cut(
        name,
        frames,
        split,
        "3BPA; own split of the published mixed-temperature and 300 K training frames (the test "
        f"files were not at hand; {both.n_frames - frames.n_frames} frames stand in both and count "
        f"once): {len(split.training)}/{len(split.validation)}/{len(split.test)}, shuffled.",
    )


def _water(name: str, file: Path) -> PotentialTask:
    frames = load_frames(file, "eV")
    if frames.cell is None:
        raise ValueError(f"{file}: has no field cell")
    dense, lengths = frames.dense(), frames.cell[0].diagonal()
    box = torch.diag(lengths)
    if float((frames.cell - box).abs().max()) > 1e-2:
        raise ValueError(f"{file}: the cells must be the same rectangular one")
    oxygens: Tensor = dense.positions[:, dense.numbers == 8]
    distances = frame_distances(oxygens, lengths)
    gap = frames.n_frames // 20
    split = split_by_distance(distances, 0.1, 0.15, gap)
    return _cut(
        name,
        frames,
        split,
        "64 water molecules, PBE0+TS. The file's frames are those of one trajectory in shuffled "
        "order; own split into blocks by the distance that oxygens wandered from one end of it: "
        f"{len(split.training)}/{len(split.validation)}/{len(split.test)}, {gap} frames left out "
        "between blocks; rms distance of a test frame from the nearest training frame at least "
        f"{closest(distances, split.training, split.test):.2f} Å.",
    )


def _oc20(name: str, file: Path) -> PotentialTask:
    with np.load(file, allow_pickle=False) as archive:
        sids: np.ndarray = archive["sid"]
    frames = load_frames(file, "eV")
    trajectory = torch.from_numpy(np.unique(sids, return_inverse=True)[1].reshape(-1))
    validation, test = spared(trajectory, elements_of(frames, trajectory))
    thinned = []
    for labels, most in zip(
        (set(trajectory.tolist()) - validation - test, validation, test),
        (_PER_RELAXATION[0], *[_PER_RELAXATION[1]] * 2),
        strict=True,
    ):
        chosen = [
            rows[torch.linspace(0, len(rows) - 1, min(most, len(rows))).round().long()]
            for rows in ((trajectory == k).nonzero()[:, 0] for k in sorted(labels))
        ]
        thinned.append(torch.cat(chosen))
    split = Split(*thinned)
    n = len(set(trajectory.tolist()))
    return _cut(
        name,
        frames,
        split,
        f"OC20 relaxations, RPBE, total energies, forces of all atoms: whole relaxations "
        f"({n - len(validation) - len(test)}/{len(validation)}/{len(test)} systems by sid, whose "
        "elements all occur in training), up to "
        f"{_PER_RELAXATION[0]} evenly spaced frames of each for training, {_PER_RELAXATION[1]} "
        f"held out: {len(split.training)}/{len(split.validation)}/{len(split.test)} frames. So few "
        "systems do not fix the energies of their elements; those of new systems are guesses.",
    )


def elements_of(frames: LabelledFrames, trajectory: Tensor) -> dict[int, set[int]]:
    """Elements of each trajectory.

    Args:
        frames: the frames.
        trajectory: `(n_frames,)` int64.
    """
    found = {}
    for label in torch.unique(trajectory).tolist():
        k = int((trajectory == label).nonzero()[0])
        rows = slice(int(frames.ptr[k]), int(frames.ptr[k + 1]))
        found[int(label)] = set(frames.numbers[rows].tolist())
    return found


def spared(trajectory: Tensor, elements: Mapping[int, set[int]]) -> tuple[set[int], set[int]]:
    """Choose trajectories for validation and test whose elements the rest has too.

    Args:
        trajectory: `(n_frames,)` int64.
        elements: of each trajectory.

    Raises:
        ValueError: if not one can be spared for each set.
    """
    labels = torch.unique(trajectory)
    order = labels[torch.randperm(len(labels), generator=_generator())].tolist()
    n_validation, n_test = _HELD_OUT_RELAXATIONS
    taken: list[int] = []
    for label in order:
        rest = [elements[k] for k in elements if k != label and k not in taken]
        known = set().union(*rest)
        wanted = elements[label].union(*(elements[k] for k in taken))
        if len(taken) < n_validation + n_test and wanted <= known:
            taken.append(label)
    if len(taken) < 2:
        raise ValueError("fewer than two relaxations have elements that the others have too")
    cut = max(1, len(taken) * n_test // (n_validation + n_test))
    return set(taken[cut:]), set(taken[:cut])


_MAKERS: Final[Mapping[str, Callable[..., PotentialTask]]] = {
    "rmd17": _rmd17,
    "ccsdt": _ccsdt,
    "acac": _acac,
    "3bpa": _3bpa,
    "water": _water,
    "mlearn": _mlearn,
    "oc20": _oc20,
}
