"""A quick potential of one molecule: a small network of the distances between its atoms.

    E = E_0 + e f(u),    u_p = (1 / r_p - m_p) / s_p    for every pair p of atoms,

f being three linear layers with SiLU between them. Its cost per frame is that of three products
of small matrices for a whole batch, and its forces are written out, so that a step of many
replicas takes a fraction of a millisecond. It knows its one molecule, in one order of atoms;
distances make the energy the same however the molecule is placed, turned or mirrored. Atoms of
one element that hang on one and the same neighbour (the hydrogens of a methyl group) are alike:
`alike` lists them, and training shuffles them.

| symbol | variable |
|---|---|
| r_p | `distances` |
| E_0, e | `energy_offset_eV`, `energy_scale_eV` |
| m_p, s_p | `inverse_mean`, `inverse_spread` |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, eq=False)
class FoldedLayers:
    """The layers with mean, spread and scale of the features worked into their weights.

    Attributes:
        first: `(width, n_pairs)` and `(width,)`, of 1 / r in Å.
        second: `(width, width)` and `(width,)`.
        last: `(width,)`, eV.
        offset_eV: `()` float64, added at the end.
    """

    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]
    last: Tensor
    offset_eV: Tensor


class DistanceNetwork(nn.Module):
    """Energy and forces of one molecule from all distances of its atoms."""

    name = "distance-network"

    place: Tensor
    pair_of: Tensor
    inverse_mean: Tensor
    inverse_spread: Tensor
    energy_offset_eV: Tensor
    energy_scale_eV: Tensor

    def __init__(
        self, numbers: Sequence[int], bonds: Sequence[Sequence[int]], *, width: int = 128
    ) -> None:
        """Make the layers, untrained.

        Args:
            numbers: atomic numbers, in the order of the atoms; two atoms at least.
            bonds: pairs of atoms.
            width: of the two hidden layers.

        Raises:
            ValueError: if there are fewer than two atoms, a bond names no atom, or the width is
                not positive.
        """
        super().__init__()
        n = len(numbers)
        if n < 2:
            raise ValueError(f"a distance network needs two atoms or more, got {n}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        for one, other in bonds:
            if not (0 <= one < n and 0 <= other < n and one != other):
                raise ValueError(f"bond {one}-{other} does not join two of the atoms 0 to {n - 1}")
        self.numbers = tuple(int(z) for z in numbers)
        self.bonds = tuple((int(i), int(j)) for i, j in bonds)
        self.width = width
        pairs = torch.combinations(torch.arange(n))
        i, j = pairs.unbind(1)
        pair_of = torch.zeros((n, n), dtype=torch.int64)
        pair_of[i, j] = pair_of[j, i] = torch.arange(len(pairs))
        # Places of pairs in a table of atoms by atoms, and back; its diagonal cancels out.
        self.register_buffer("place", i * n + j, persistent=False)
        self.register_buffer("pair_of", pair_of.flatten(), persistent=False)
        for called in ("inverse_mean", "inverse_spread"):
            self.register_buffer(called, torch.ones(len(pairs)))
        self.register_buffer("energy_offset_eV", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("energy_scale_eV", torch.ones(1))
        self.first = nn.Linear(len(pairs), width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, 1, bias=False)

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> DistanceNetwork:
        """Make an untrained network as a card describes it.

        Args:
            architecture: what `architecture()` gave.
        """
        given = {k: v for k, v in architecture.items() if k != "name"}
        return cls(given.pop("numbers"), given.pop("bonds"), **given)

    def architecture(self) -> dict[str, Any]:
        """The molecule and the width, as plain JSON."""
        return {
            "name": self.name,
            "numbers": list(self.numbers),
            "bonds": [list(bond) for bond in self.bonds],
            "width": self.width,
        }

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur."""
        return tuple(sorted(set(self.numbers)))

    @property
    def cutoff_A(self) -> None:
        """None: every pair is seen."""
        return None

    @property
    def alike(self) -> tuple[tuple[int, ...], ...]:
        """Groups of atoms of one element whose only bond is to one and the same atom."""
        return alike_atoms(self.numbers, self.bonds)

    @torch.no_grad()
    def scale_to(self, positions: Tensor, energies: Tensor, forces: Tensor) -> None:
        """Take means and spreads of features and labels from frames.

        Args:
            positions: `(n_frames, n_atoms, 3)`, Å.
            energies: `(n_frames,)`, eV.
            forces: `(n_frames, n_atoms, 3)`, eV/Å.
        """
        inverse = self._inverse(positions.to(torch.float64))
        mean, spread = inverse.mean(0), inverse.std(0)
        self.inverse_mean.copy_(mean)
        self.inverse_spread.copy_(spread.clamp_min(1e-3 * float(spread.max()) + 1e-6))
        self.energy_offset_eV.copy_(energies.mean())
        self.energy_scale_eV.copy_(forces.square().mean().sqrt())

    def folded(self) -> FoldedLayers:
        """Work mean, spread and scale into the weights."""
        weight = self.first.weight / self.inverse_spread
        bias = self.first.bias - weight @ self.inverse_mean
        return FoldedLayers(
            (weight, bias),
            (self.second.weight, self.second.bias),
            self.energy_scale_eV * self.last.weight[0],
            self.energy_offset_eV,
        )

    def forward(
        self, positions: Tensor, layers: FoldedLayers | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return energies `(n,)` float64, eV, and forces `(n, n_atoms, 3)`, eV/Å.

        Args:
            positions: `(n, n_atoms, 3)`, Å; distances are taken in their dtype, best float64.
            layers: what `folded` gave; made here when None.
        """
        f = self.folded() if layers is None else layers
        x = positions - positions.mean(1, keepdim=True)
        inverse = self._inverse(x).to(f.last)
        one, of_one = _silu(torch.addmm(f.first[1], inverse, f.first[0].mT))
        two, of_two = _silu(torch.addmm(f.second[1], one, f.second[0].mT))
        energy = (two @ f.last).to(torch.float64) + f.offset_eV
        slope = (((f.last * of_two) @ f.second[0]) * of_one) @ f.first[0]
        # With u = 1/r the force on i from j is dE/du u^3 (x_i - x_j); summed over all j.
        n, n_atoms, _ = x.shape
        push = (slope * inverse.pow(3)).to(x)
        table = push.index_select(1, self.pair_of).view(n, n_atoms, n_atoms)
        return energy, torch.baddbmm(table.sum(2, keepdim=True) * x, table, x, alpha=-1.0)

    def _inverse(self, x: Tensor) -> Tensor:
        """1 / r of all pairs, `(n, n_pairs)`, 1/Å, from `(n, n_atoms, 3)`, Å."""
        products = x @ x.mT
        squares = products.diagonal(dim1=1, dim2=2)
        apart = torch.add(squares[:, :, None] + squares[:, None], products, alpha=-2.0)
        return apart.flatten(1).index_select(1, self.place).rsqrt()


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    """x sigmoid(x) and its derivative."""
    gate = torch.sigmoid(x)
    value = x * gate
    return value, torch.addcmul(gate + value, gate, value, value=-1.0)


def alike_atoms(
    numbers: Sequence[int], bonds: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], ...]:
    """Find atoms of one element whose only bond is to one and the same atom.

    Args:
        numbers: atomic numbers.
        bonds: pairs of atoms.
    """
    near: dict[int, list[int]] = {}
    for i, j in bonds:
        near.setdefault(i, []).append(j)
        near.setdefault(j, []).append(i)
    groups: dict[tuple[int, int], list[int]] = {}
    for atom, others in sorted(near.items()):
        if len(others) == 1:
            groups.setdefault((others[0], numbers[atom]), []).append(atom)
    return tuple(tuple(atoms) for atoms in groups.values() if len(atoms) > 1)
