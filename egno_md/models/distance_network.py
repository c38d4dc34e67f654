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
| 1 / r_p | `inverse` |
| E_0, e | `energy_offset_eV`, `energy_scale_eV` |
| m_p, s_p | `inverse_mean`, `inverse_spread` |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from egno_md.models.one_molecule import OneMolecule, silu


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


class DistanceNetwork(OneMolecule):
    """Energy and forces of one molecule from all distances of its atoms."""

    name = "distance-network"

    inverse_mean: Tensor
    inverse_spread: Tensor

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
        super().__init__(numbers, bonds, width=width)
        n_pairs = len(self.place)
        for called in ("inverse_mean", "inverse_spread"):
            self.register_buffer(called, torch.ones(n_pairs))
        self.first = nn.Linear(n_pairs, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, 1, bias=False)

    def _scale_features(self, inverse: Tensor) -> None:
        mean, spread = inverse.mean(0), inverse.std(0)
        self.inverse_mean.copy_(mean)
        self.inverse_spread.copy_(spread.clamp_min(1e-3 * float(spread.max()) + 1e-6))

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
        inverse = self.inverse_distances(x).to(f.last)
        one, of_one = silu(torch.addmm(f.first[1], inverse, f.first[0].mT))
        two, of_two = silu(torch.addmm(f.second[1], one, f.second[0].mT))
        energy = (two @ f.last).to(torch.float64) + f.offset_eV
        slope = (((f.last * of_two) @ f.second[0]) * of_one) @ f.first[0]
        return energy, self.forces_of(slope, inverse, x)
