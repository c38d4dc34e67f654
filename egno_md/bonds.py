"""Which atoms are bonded, guessed from distances, and how many bonds lie between two atoms.

A pair is bonded when it is closer than `BOND_FACTOR` times the sum of its covalent radii
(Cordero et al. 2008, as ASE tabulates them). This is meant for molecules near equilibrium: in
salts every nearest neighbour counts as bonded, which is harmless but says little. In a periodic
cell two metal atoms are never bonded: neighbours in a metal change places.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import torch
from torch import Tensor

#: A pair closer than this times the sum of the covalent radii is bonded. Vibrations stretch a
#: bond by up to about 20 %; the nearest pairs that are not bonded are beyond 1.5.
BOND_FACTOR: Final = 1.25

#: A pair farther apart than this times that sum is not bonded, however far a bond vibrates. Most
#: pairs two bonds apart are beyond it.
TORN_FACTOR: Final = 1.6

#: Elements that are no metals: H, He, B to Ne, Si to Ar, Ge to Kr, Te to Xe, At, Rn.
_NO_METALS: Final = (
    *(1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18),
    *(32, 33, 34, 35, 36, 52, 53, 54, 85, 86),
)

#: Most images of a cell that a search goes through; more means a cell far too thin.
MOST_IMAGES: Final = 1e4


def close_pairs(
    positions: Tensor,
    cutoff_A: float,
    *,
    cell: Tensor | None = None,
    pbc: tuple[bool, bool, bool] = (False, False, False),
) -> tuple[Tensor, Tensor]:
    """Find the pairs of different atoms that are closer than a cutoff, each pair once.

    Args:
        positions: `(n_atoms, 3)`, Å, finite.
        cutoff_A: largest distance, Å.
        cell: `(3, 3)`, Å, rows are cell vectors; needed when a direction is periodic.
        pbc: periodic directions.

    Returns:
        `(n_pairs, 2)` int64, `i < j`, sorted; and `(n_pairs,)` float64, Å, the distance of the
        nearest images.

    Raises:
        ValueError: if a coordinate is not finite, or a periodic system has no cell or one that
            is far thinner than the cutoff.
    """
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ValueError(f"positions must have shape (n_atoms, 3), got {tuple(positions.shape)}")
    points = positions.detach().to(device="cpu", dtype=torch.float64).contiguous().numpy()
    wrong = np.argwhere(~np.isfinite(points))
    if len(wrong):
        i, axis = (int(k) for k in wrong[0])
        raise ValueError(f"position of atom {i} ({'xyz'[axis]}) is {points[i, axis]} Å; not finite")
    if any(pbc) and cell is None:
        raise ValueError(f"positions are periodic (pbc {pbc}) but there is no cell")
    box = np.zeros((3, 3)) if cell is None else cell.detach().to("cpu", torch.float64).numpy()
    _check_images(cutoff_A, box, pbc)
    if not len(points):
        return torch.zeros((0, 2), dtype=torch.int64), torch.zeros(0, dtype=torch.float64)

    # Imported late: only the reading of structures needs it.
    from vesin import NeighborList

    search = NeighborList(cutoff=float(cutoff_A), full_list=False)
    first, second, distance = search.compute(points, box, list(pbc), quantities="ijd")
    low, high = np.minimum(first, second).astype(np.int64), np.maximum(first, second)
    # By pair and then by distance; of several images of a pair the nearest comes first.
    order = np.lexsort((distance, high, low))
    order = order[low[order] != high[order]]
    pairs = np.stack((low[order], high[order].astype(np.int64)), 1)
    new = np.ones(len(pairs), dtype=bool)
    new[1:] = (pairs[1:] != pairs[:-1]).any(1)
    kept = np.asarray(distance, dtype=np.float64)[order][new]
    return torch.from_numpy(pairs[new]), torch.from_numpy(kept)


def _check_images(cutoff_A: float, box: np.ndarray, pbc: tuple[bool, bool, bool]) -> None:
    """Refuse cells so thin that the images within the cutoff would never end."""
    if not any(pbc):
        return
    volume = abs(float(np.linalg.det(box))) if np.isfinite(box).all() else 0.0
    if volume == 0.0:
        raise ValueError(f"the periodic cell has no volume: {box.tolist()}")
    images = 1.0
    for axis in range(3):
        across = float(np.linalg.norm(np.cross(box[axis - 2], box[axis - 1])))
        images *= 1.0 + 2.0 * cutoff_A * across / volume if pbc[axis] else 1.0
    if images > MOST_IMAGES:
        raise ValueError(
            f"the periodic cell {box.tolist()} is too thin: within {cutoff_A:.3g} Å it repeats "
            f"{images:.3g} times; check its unit (Å)"
        )


def guess_bonds(
    numbers: Tensor,
    positions: Tensor,
    *,
    factor: float = BOND_FACTOR,
    cell: Tensor | None = None,
    pbc: tuple[bool, bool, bool] = (False, False, False),
) -> Tensor:
    """Guess the bonds of a molecule from its covalent radii.

    Args:
        numbers: `(n_atoms,)` atomic numbers.
        positions: `(n_atoms, 3)`, Å.
        factor: a pair closer than this times the sum of its covalent radii is bonded.
        cell: `(3, 3)`, Å, or None.
        pbc: periodic directions; bonds are then found through the faces of the cell.

    Returns:
        `(n_bonds, 2)` int64, pairs `i < j`, sorted.

    Raises:
        ValueError: if shapes differ, an atomic number has no radius, or a coordinate is not
            finite.
    """
    from ase.data import covalent_radii

    if tuple(positions.shape) != (numbers.shape[0], 3):
        raise ValueError(
            f"positions must have shape ({numbers.shape[0]}, 3) for {numbers.shape[0]} atomic "
            f"numbers, got {tuple(positions.shape)}"
        )
    if not len(numbers):
        return torch.zeros((0, 2), dtype=torch.int64)
    z = numbers.detach().cpu()
    wrong = ((z < 1) | (z >= len(covalent_radii))).nonzero()
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            f"atom {i} has atomic number {int(z[i])}; allowed are 1 to {len(covalent_radii) - 1}"
        )
    radii = torch.tensor(covalent_radii, dtype=torch.float64)[z]
    reach = 2.0 * factor * float(radii.max())
    pairs, distances = close_pairs(positions, reach, cell=cell, pbc=pbc)
    bonded = distances < factor * (radii[pairs[:, 0]] + radii[pairs[:, 1]])
    if any(pbc):
        metal = ~torch.isin(z, torch.tensor(_NO_METALS))
        bonded = bonded & ~(metal[pairs[:, 0]] & metal[pairs[:, 1]])
    return pairs[bonded]


def torn_bond(
    numbers: Tensor, positions: Tensor, bonds: Tensor, factor: float = TORN_FACTOR
) -> tuple[int, int, float] | None:
    """Find a bond that no geometry explains: its atoms are in another order.

    Args:
        numbers: `(n_atoms,)` atomic numbers.
        positions: `(n_replicas, n_atoms, 3)`, Å.
        bonds: `(n_bonds, 2)`, pairs of atoms that should be bonded.
        factor: longest length, in sums of covalent radii.

    Returns:
        The two atoms and their distance, Å, in the replica where it is shortest; of the bond that
        is the most too long; None where all may be bonds.
    """
    from ase.data import covalent_radii

    if not len(bonds):
        return None
    radii = torch.tensor(covalent_radii, dtype=torch.float64)[numbers.detach().cpu()]
    x = positions.detach().to("cpu", torch.float64)
    i, j = bonds.unbind(1)
    lengths = (x[:, i] - x[:, j]).norm(dim=-1).amin(0)
    excess = lengths / (radii[i] + radii[j])
    worst = int(excess.argmax())
    if not float(excess[worst]) > factor:
        return None
    return int(i[worst]), int(j[worst]), float(lengths[worst])


def bond_graph_distance(n_atoms: int, bonds: Tensor, cap: int) -> Tensor:
    """Count the bonds on the shortest path between every two atoms.

    Args:
        n_atoms: number of atoms.
        bonds: `(n_bonds, 2)` int64, pairs of atom indices in any order.
        cap: largest count told apart; farther and unconnected pairs get this number.

    Returns:
        `(n_atoms, n_atoms)` int64: 0 on the diagonal, 1 for a bond, 2 for an angle, ..., `cap`.

    Raises:
        ValueError: if the cap is below 1 or a bond names an atom that is not there.
    """
    if cap < 1:
        raise ValueError(f"cap must be at least 1, got {cap}")
    if len(bonds) and bool(((bonds < 0) | (bonds >= n_atoms)).any()):
        raise ValueError(f"bonds must name atoms 0..{n_atoms - 1}, got {bonds.tolist()}")
    pairs = bonds.reshape(-1, 2)
    start, end = torch.cat((pairs, pairs.flip(1))).unbind(1)
    distance = torch.full((n_atoms, n_atoms), cap, dtype=torch.int64, device=bonds.device)
    reached = torch.eye(n_atoms, dtype=torch.int8, device=bonds.device)
    distance.fill_diagonal_(0)
    front = reached
    for steps in range(1, cap):
        # One bond further from every atom at once; clamped so that counts cannot overflow.
        ahead = torch.zeros_like(distance).index_add_(1, end, front[:, start].to(torch.int64))
        front = ((ahead > 0) & (reached == 0)).to(torch.int8)
        if not bool(front.any()):
            break
        distance[front > 0] = steps
        reached = reached | front
    return distance


def constitution(numbers: Tensor, bonds: Tensor) -> str:
    """Name which atoms are bonded to which, whatever their order: "C2H6O:5b0f3c1e".

    The formula in Hill's order, and a hash of the bond graph after as many rounds of
    Weisfeiler-Lehman refinement as there are atoms. Isomers differ, mirror images do not.

    Args:
        numbers: `(n_atoms,)` atomic numbers.
        bonds: `(n_bonds, 2)` pairs of atoms.
    """
    from ase.data import chemical_symbols
    from ase.formula import Formula

    labels = [str(z) for z in numbers.tolist()]
    neighbours: list[list[int]] = [[] for _ in labels]
    for i, j in bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    for _ in labels:
        around = [sorted(labels[j] for j in beside) for beside in neighbours]
        pairs = zip(labels, around, strict=True)
        labels = [_digest([mine, *theirs]) for mine, theirs in pairs]
    formula = Formula.from_list([chemical_symbols[z] for z in numbers.tolist()])
    return f"{formula.format('hill')}:{_digest(sorted(labels))}"


def _digest(words: list[str]) -> str:
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:8]
