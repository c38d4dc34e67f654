"""Trajectories of adenylate kinase, as the AdK benchmark uses them: the backbone's atoms.

The published benchmark has an equilibrium trajectory (MDAnalysisData `adk_equilibrium`). What
is read here has the same protein and topology, but other dynamics: driven transitions between
the open and the closed form, from the test files of MDAnalysis.

| name | file | frames | dynamics |
|---|---|---|---|
| `dims` | `adk_dims.dcd` | 98 | dynamic importance sampling |
| `tmd` | `adk_gbis_tmd-fast1_NAMD.dcd` | 100 | targeted molecular dynamics |

Any other trajectory of a protein with a PSF file is read the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

TOPOLOGY: Final = "adk.psf"
#: Trajectories by name.
TRAJECTORIES: Final = {"dims": "adk_dims.dcd", "tmd": "adk_gbis_tmd-fast1_NAMD.dcd"}
_A_PER_NM: Final = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class BackboneTrajectory:
    """The backbone of a protein over time.

    Attributes:
        positions: `(n_frames, n_atoms, 3)` float32, Å.
        charges: `(n_atoms,)` float32, elementary charges of the force field.
        names: name of each atom.
    """

    positions: Tensor
    charges: Tensor
    names: tuple[str, ...]


def find_adk_files(data: str | Path, trajectory: str) -> tuple[Path, Path]:
    """Find topology and trajectory in a folder or in its `bio`.

    Args:
        data: the folder.
        trajectory: "dims", "tmd", or the name of a file beside the topology.

    Raises:
        FileNotFoundError: saying what was looked for.
    """
    name = TRAJECTORIES.get(trajectory, trajectory)
    folders = (Path(data), Path(data) / "bio")
    for folder in folders:
        if (folder / TOPOLOGY).is_file() and (folder / name).is_file():
            return folder / TOPOLOGY, folder / name
    raise FileNotFoundError(
        f"no {TOPOLOGY} with {name} in {' or '.join(map(str, folders))}; give their folder "
        f"(trajectories with a name: {', '.join(TRAJECTORIES)})"
    )


def psf_charges(path: str | Path) -> Tensor:
    """Charges of all atoms in a PSF file.

    Args:
        path: the file.

    Returns:
        `(n_atoms,)` float64, elementary charges.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its list of atoms cannot be read.
    """
    with Path(path).open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            if "!NATOM" in line:
                count = int(line.split()[0])
                break
        else:
            raise ValueError(f"{path} has no list of atoms (!NATOM); it must be a PSF file")
        # serial, segment, residue, residue's name, atom's name, type, charge, mass, ...
        atoms = [line.split() for _, line in zip(range(count), lines, strict=False)]
    try:
        charges = [float(fields[6]) for fields in atoms]
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path}: an atom's line has no charge in its 7th field") from error
    if len(charges) != count or not np.isfinite(charges).all():
        raise ValueError(f"{path} announces {count} atoms and has {len(charges)} usable lines")
    return torch.tensor(charges, dtype=torch.float64)


def read_backbone(topology: str | Path, trajectory: str | Path) -> BackboneTrajectory:
    """Read the backbone's atoms (N, CA, C, O) of a trajectory.

    Args:
        topology: a PSF file.
        trajectory: a file that MDTraj reads, of the same atoms.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if they do not fit together or have no backbone.
    """
    import mdtraj

    for path in (topology, trajectory):
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {path}")
    charges = psf_charges(topology)
    structure = mdtraj.load_topology(str(topology))
    chosen = structure.select("backbone")
    if not len(chosen):
        raise ValueError(f"{topology} has no backbone atoms")
    frames = mdtraj.load(str(trajectory), top=structure, atom_indices=chosen)
    positions = torch.from_numpy(_A_PER_NM * frames.xyz.astype(np.float64)).float()
    if not bool(torch.isfinite(positions).all()):
        raise ValueError(f"{trajectory} has positions that are not finite")
    names = tuple(structure.atom(int(i)).name for i in chosen)
    return BackboneTrajectory(positions, charges[torch.from_numpy(chosen)].float(), names)


def contact_graph(positions: Tensor, cutoff_A: float) -> Tensor:
    """Pairs of atoms closer than a cutoff.

    Args:
        positions: `(n_atoms, 3)`, Å.
        cutoff_A: the cutoff, Å.

    Returns:
        `(2, n_edges)` int64 receivers and senders, both directions, by receiver.

    Raises:
        ValueError: if the cutoff is not positive.
    """
    if not cutoff_A > 0:
        raise ValueError(f"cutoff_A must be positive, got {cutoff_A}")
    exact = positions.double()
    distances: Tensor = (exact[:, None] - exact[None]).norm(dim=-1)
    near: Tensor = (distances < cutoff_A).fill_diagonal_(False)
    return near.nonzero().T.contiguous()


def chronological_starts(
    n_frames: int, delta_frame: int, shares: tuple[float, float] = (0.6, 0.2)
) -> dict[str, range]:
    """Starts in the order of time: first training, then validation, then test.

    As published: the last frame has no velocity, and the targets of the last starts of a split
    lie among the starts of the next.

    Args:
        n_frames: frames of the trajectory.
        delta_frame: frames from a start to its last target.
        shares: of training and validation; the rest is for testing.

    Returns:
        "training", "validation" and "test".

    Raises:
        ValueError: if the shares are not possible or a split would be empty.
    """
    if not (min(shares) > 0 and sum(shares) < 1):
        raise ValueError(f"shares must be positive and leave some for testing, got {shares}")
    total = n_frames - 1 - delta_frame
    first, second = int(shares[0] * total), int(sum(shares) * total)
    if not 0 < first < second < total:
        raise ValueError(
            f"{n_frames} frames are too few for three splits with targets {delta_frame} frames on"
        )
    return {
        "training": range(first),
        "validation": range(first, second),
        "test": range(second, total),
    }
