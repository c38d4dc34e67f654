"""Pairs of atoms sorted into classes that mean the same in every molecule.

A class is (lighter element, heavier element, number of bonds between the two, capped). Distances
standardised per class vary by about one in every class, stiff bonds and soft contacts alike,
which suits a network better than raw distances, whose scales differ from pair to pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PairClass = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class PairGraph:
    """The pairs of one molecule, or of many replicas in one graph, ready for a network.

    Attributes:
        element_index: `(n_atoms,)` int64, row of each atom in the network's list of elements.
        pairs: `(2, n_pairs)` int64, atoms `i` and `j`, each pair once.
        pair_class: `(n_pairs,)` int64, row of each pair in the network's list of classes.
        masses: `(n_atoms,)` float64, amu.
        shifts: `(n_pairs, 3)` float64, Å, added to the place of atom j to get the image that
            atom i sees; None where there are no images and all pairs are listed.
    """

    element_index: Tensor
    pairs: Tensor
    pair_class: Tensor
    masses: Tensor
    shifts: Tensor | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the fields in order, without shifts where there are none."""
        fields = (self.element_index, self.pairs, self.pair_class, self.masses)
        return fields if self.shifts is None else (*fields, self.shifts)

    def to(self, device: str | torch.device) -> PairGraph:
        """Return the same graph on a device."""
        return PairGraph(*(field.to(device) for field in self.tensors()))


def class_of_pairs(numbers: Tensor, bond_distance: Tensor) -> tuple[Tensor, list[PairClass]]:
    """Name the class of every pair of atoms.

    Args:
        numbers: `(n_atoms,)` atomic numbers.
        bond_distance: `(n_atoms, n_atoms)` number of bonds between atoms, capped.

    Returns:
        `(2, n_pairs)` pairs `i < j`, and one class per pair.
    """
    pairs = torch.triu_indices(len(numbers), len(numbers), offset=1)
    z = numbers[pairs].sort(dim=0).values
    bonds = bond_distance[pairs[0], pairs[1]]
    names = torch.stack([z[0], z[1], bonds], 1).tolist()
    return pairs, [(a, b, n) for a, b, n in names]


def element_rows(numbers: Tensor, elements: Sequence[int]) -> Tensor:
    """Look up every atom in a network's list of elements.

    Args:
        numbers: `(n_atoms,)` atomic numbers.
        elements: atomic numbers that the network knows.

    Returns:
        `(n_atoms,)` int64.

    Raises:
        ValueError: naming the first atom that the network was not trained for.
    """
    for i, z in enumerate(numbers.tolist()):
        if z not in elements:
            raise ValueError(
                f"atom {i} has atomic number {z}; the network knows {sorted(elements)}"
            )
    return torch.tensor([list(elements).index(z) for z in numbers.tolist()], dtype=torch.int64)


def pair_graph(
    numbers: Tensor,
    masses: Tensor,
    bond_distance: Tensor,
    elements: Sequence[int],
    classes: Sequence[PairClass],
) -> PairGraph:
    """Look up every atom and pair in a network's lists.

    Args:
        numbers: `(n_atoms,)` atomic numbers.
        masses: `(n_atoms,)` amu.
        bond_distance: `(n_atoms, n_atoms)` number of bonds between atoms, capped.
        elements: atomic numbers that the network knows.
        classes: pair classes that the network knows.

    Raises:
        ValueError: naming the first atom or pair that the network was not trained for.
    """
    element_index = element_rows(numbers, elements)
    pairs, names = class_of_pairs(numbers, bond_distance)
    rows = {name: row for row, name in enumerate(classes)}
    for p, name in enumerate(names):
        if name not in rows:
            i, j = pairs[:, p].tolist()
            raise ValueError(
                f"atoms {i} and {j} (elements {name[0]} and {name[1]}, {name[2]} bonds apart) "
                "are a pair the network was not trained for"
            )
    return PairGraph(
        element_index,
        pairs,
        torch.tensor([rows[name] for name in names], dtype=torch.int64),
        masses,
    )


def distance_statistics(
    positions: Tensor, numbers: Tensor, bond_distance: Tensor
) -> tuple[list[PairClass], Tensor, Tensor]:
    """Mean and spread of the distances of every class in some frames.

    Args:
        positions: `(n_frames, n_atoms, 3)`, Å.
        numbers: `(n_atoms,)` atomic numbers.
        bond_distance: `(n_atoms, n_atoms)` number of bonds between atoms, capped.

    Returns:
        The classes, and per class the mean and the standard deviation, Å, float64.
    """
    pairs, names = class_of_pairs(numbers, bond_distance)
    distance = (positions[:, pairs[0]] - positions[:, pairs[1]]).norm(dim=-1).double()
    classes = sorted(set(names))
    mean, spread = [], []
    for c in classes:
        values = distance[:, [p for p, name in enumerate(names) if name == c]]
        mean.append(values.mean())
        spread.append(values.std())
    return classes, torch.stack(mean), torch.stack(spread)
