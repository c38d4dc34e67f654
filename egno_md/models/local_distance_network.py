"""A quick potential of a larger molecule, or of a few: networks of parts, and terms of far pairs.

    E = E_0 + e [ sum_k f_k(u of all pairs in part k) + sum_p sum_n (c_tn + d_pn) s_p^n ]
          + w sum_p max(0, s_p - 1)^2,        s_p = a_p / r_p,

u as in `distance_network`. Parts (`molecule_parts`) are an atom with all within two bonds, or small
molecules alone, in twos and in threes; each class of parts has layers of its own. The second sum is
over the pairs p more than two bonds apart, of type t: powers hold what force fields hold, charges
and repulsion. Pairs of one type share c, so that rare contacts learn from common ones.

Closer than a, which is beyond all that was seen of two elements, the powers go on as straight lines
and the third sum pushes apart: high powers that nothing has taught would tear the molecule.

| symbol | variable |
|---|---|
| 1 / r_p | `inverse` |
| E_0, e | `energy_offset_eV`, `energy_scale_eV` |
| n | `POWERS` |
| c_t, d_p | `shared_far`, `own_far` |
| 1 / a_p | `inverse_closest` |
| w | `WALL_EV` |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from egno_md.models.molecule_parts import (
    Parts,
    close_pairs_of,
    pair_classes_of,
    pair_types_of,
    parts_of,
)
from egno_md.models.one_molecule import OneMolecule, silu

#: Powers of 1 / r.
POWERS: Final = (1, 2, 4, 6, 9, 12)

#: Curvature of the push between atoms closer than any that were seen, eV.
WALL_EV: Final = 100.0

#: 1 / r of the closest pair of two elements is taken so much larger.
_MARGIN: Final = 1.1


@dataclass(frozen=True, slots=True, eq=False)
class FoldedParts:
    """The layers of every part, with mean, spread and scale worked in.

    Attributes:
        first: `(n_parts, most_pairs, width)` and `(n_parts, 1, width)`, of 1 / r in Å.
        second: `(n_parts, width, width)` and `(n_parts, 1, width)`.
        last: `(n_parts, 1, width)`, eV.
        far: `(n_powers, n_far)`, eV, of the powers of s.
        reach_A: `(n_far,)`, a, Å.
        offset_eV: `()` float64, added at the end.
    """

    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]
    last: Tensor
    far: Tensor
    reach_A: Tensor
    offset_eV: Tensor


class LocalDistanceNetwork(OneMolecule):
    """Energy and forces of one molecule, or of a few, from the distances within its parts."""

    name = "local-distance-network"
    #: Weights of three axes are stacks of matrices over their first.
    stacked_first = True

    part_pairs: Tensor
    class_of_part: Tensor
    class_pairs: Tensor
    far_pairs: Tensor
    far_class: Tensor
    type_of_far_class: Tensor
    elements_of_far: Tensor
    pair_class: Tensor
    inverse_mean: Tensor
    inverse_spread: Tensor
    inverse_closest: Tensor

    def __init__(
        self, numbers: Sequence[int], bonds: Sequence[Sequence[int]], *, width: int = 32
    ) -> None:
        """Make the layers, untrained.

        Args:
            numbers: atomic numbers, in the order of the atoms; two atoms at least.
            bonds: pairs of atoms.
            width: of the two hidden layers of each part.

        Raises:
            ValueError: if there are fewer than two atoms, a bond names no atom, the width is not
                positive, or no two atoms are in one part.
        """
        super().__init__(numbers, bonds, width=width)
        parts = parts_of(self.numbers, self.bonds)
        if not parts.atoms:
            raise ValueError("a local distance network needs two atoms that are bonded")
        self._class_buffers()
        self._part_buffers(parts)
        self._far_buffers()
        n_classes, most = self.class_pairs.shape
        n_inputs = (self.class_pairs < len(self.inverse_mean)).sum(1)
        n_wide = torch.full((n_classes,), width)
        self.first_weight = _drawn((n_classes, most, width), n_inputs)
        self.first_bias = _drawn((n_classes, width), n_inputs)
        self.second_weight = _drawn((n_classes, width, width), n_wide)
        self.second_bias = _drawn((n_classes, width), n_wide)
        self.last_weight = _drawn((n_classes, width), n_wide)
        n_types = int(self.type_of_far_class.max()) + 1 if len(self.far_pairs) else 0
        self.own_far = nn.Parameter(torch.zeros(len(self.type_of_far_class), len(POWERS)))
        self.shared_far = nn.Parameter(torch.zeros(n_types, len(POWERS)))

    def _class_buffers(self) -> None:
        """Number the pairs, alike in molecules of one kind, and make room for their features."""
        classes = torch.tensor(pair_classes_of(self.fragments, self.pairs))
        self.register_buffer("pair_class", classes, persistent=False)
        for called in ("inverse_mean", "inverse_spread", "inverse_closest"):
            self.register_buffer(called, torch.ones(int(classes.max()) + 1))

    def _part_buffers(self, parts: Parts) -> None:
        """Which pairs make the features of each part; short ones are filled up with none."""
        n, n_pairs, n_pair_classes = len(self.numbers), len(self.place), len(self.inverse_mean)
        table = self.pair_of.view(n, n)
        own = [
            table[i, j]
            for i, j in (torch.combinations(torch.tensor(part)).unbind(1) for part in parts.atoms)
        ]
        most = max(len(pairs) for pairs in own)
        part_pairs = torch.full((len(own), most), n_pairs)
        class_pairs = torch.full((max(parts.classes) + 1, most), n_pair_classes)
        for k, (number, pairs) in enumerate(zip(parts.classes, own, strict=True)):
            part_pairs[k, : len(pairs)] = pairs
            class_pairs[number, : len(pairs)] = self.pair_class[pairs]
        self.register_buffer("part_pairs", part_pairs, persistent=False)
        self.register_buffer("class_pairs", class_pairs, persistent=False)
        self.register_buffer("class_of_part", torch.tensor(parts.classes), persistent=False)

    def _far_buffers(self) -> None:
        """Pairs more than two bonds apart, with their classes and types."""
        close = close_pairs_of(self.numbers, self.bonds)
        far = [p for p, pair in enumerate(self.pairs) if pair not in close]
        pairs = torch.tensor(far, dtype=torch.int64)
        classes, class_of = torch.unique(self.pair_class[pairs], return_inverse=True)
        types = torch.zeros(len(classes), dtype=torch.int64)
        named = pair_types_of(self.numbers, self.bonds, [self.pairs[p] for p in far])
        types[class_of] = torch.tensor(named, dtype=torch.int64)
        self.register_buffer("far_pairs", pairs, persistent=False)
        self.register_buffer("far_class", class_of, persistent=False)
        self.register_buffer("type_of_far_class", types, persistent=False)
        elements = pair_types_of(self.numbers, (), [self.pairs[p] for p in far])
        self.register_buffer(
            "elements_of_far", torch.tensor(elements, dtype=torch.int64), persistent=False
        )

    def _scale_features(self, inverse: Tensor) -> None:
        n_classes, flat = len(self.inverse_mean), self.pair_class.expand_as(inverse)
        count = torch.bincount(self.pair_class, minlength=n_classes) * len(inverse)
        zero = inverse.new_zeros(n_classes)
        mean = zero.scatter_add(0, flat.flatten(), inverse.flatten()) / count
        off = (inverse - mean[self.pair_class]).square().flatten()
        spread = (zero.scatter_add(0, flat.flatten(), off) / count).sqrt()
        self.inverse_mean.copy_(mean)
        self.inverse_spread.copy_(spread.clamp_min(1e-3 * float(spread.max()) + 1e-6))
        self.inverse_closest[self._far_of_pair] = self._closest(inverse)

    def widen_to(self, positions: Tensor) -> None:
        """Take in closer contacts than were seen before; the energy of what was seen stays.

        Args:
            positions: `(n_frames, n_atoms, 3)`, Å.
        """
        with torch.no_grad():
            inverse = self.inverse_distances(positions.to(torch.float64))
            before = self.inverse_closest[self._far_of_pair]
            self.inverse_closest[self._far_of_pair] = torch.maximum(before, self._closest(inverse))
            # c (a / r)^n with another a.
            growth = (self.inverse_closest[self._far_of_pair] / before)[:, None]
            growth = growth ** growth.new_tensor(POWERS)
            by_class = torch.ones_like(self.own_far)
            by_class[self.far_class] = growth
            by_type = torch.ones_like(self.shared_far)
            by_type[self.type_of_far_class] = by_class
            self.own_far.mul_(by_class)
            self.shared_far.mul_(by_type)

    @property
    def _far_of_pair(self) -> Tensor:
        """Class of every far pair among all pairs."""
        return self.pair_class[self.far_pairs]

    def _closest(self, inverse: Tensor) -> Tensor:
        """1 / a of every far pair, `(n_far,)`: of the closest of its elements, and beyond."""
        largest = inverse.new_zeros(len(self.far_pairs)).scatter_reduce(
            0, self.elements_of_far, inverse[:, self.far_pairs].amax(0), "amax"
        )
        return (_MARGIN * largest[self.elements_of_far]).to(self.inverse_closest)

    def folded(self) -> FoldedParts:
        """Work mean, spread and scale into the weights, and give each part those of its class."""
        one = self.inverse_mean.new_ones(1)
        mean = torch.cat([self.inverse_mean, 0.0 * one])[self.class_pairs]
        spread = torch.cat([self.inverse_spread, one])[self.class_pairs]
        weight = self.first_weight / spread[..., None]
        bias = self.first_bias[:, None] - mean[:, None] @ weight
        k, scale = self.class_of_part, self.energy_scale_eV
        far = scale * (self.own_far + self.shared_far[self.type_of_far_class])
        return FoldedParts(
            (weight[k], bias[k]),
            (self.second_weight[k], self.second_bias[k][:, None]),
            scale * self.last_weight[k][:, None],
            far[self.far_class].mT.contiguous(),
            self.inverse_closest[self._far_of_pair].reciprocal(),
            self.energy_offset_eV,
        )

    def forward(
        self, positions: Tensor, layers: FoldedParts | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return energies `(n,)` float64, eV, and forces `(n, n_atoms, 3)`, eV/Å.

        Args:
            positions: `(n, n_atoms, 3)`, Å; distances are taken in their dtype, best float64.
            layers: what `folded` gave; made here when None.
        """
        f = self.folded() if layers is None else layers
        x = positions - positions.mean(1, keepdim=True)
        inverse = self.inverse_distances(x).to(f.last)
        near, near_slope = self._near(inverse, f)
        far, far_slope = _far(inverse.index_select(1, self.far_pairs) * f.reach_A, f.far)
        slope = near_slope.index_add(1, self.far_pairs, far_slope * f.reach_A)
        return near + far + f.offset_eV, self.forces_of(slope, inverse, x)

    def _near(self, inverse: Tensor, f: FoldedParts) -> tuple[Tensor, Tensor]:
        """Energy of the parts, `(n,)` float64, and its slopes, `(n, n_pairs)`."""
        n, places = len(inverse), self.part_pairs.flatten()
        filled = torch.cat([inverse, inverse.new_zeros((n, 1))], 1)
        # Parts go first, since each has weights of its own.
        u = filled.index_select(1, places).view(n, *self.part_pairs.shape).transpose(0, 1)
        one, of_one = silu(torch.baddbmm(f.first[1], u, f.first[0]))
        two, of_two = silu(torch.baddbmm(f.second[1], one, f.second[0]))
        energy = (two * f.last).sum((0, 2), dtype=torch.float64)
        back = (((f.last * of_two) @ f.second[0].mT) * of_one) @ f.first[0].mT
        slope = torch.zeros_like(filled).index_add(1, places, back.transpose(0, 1).flatten(1))
        return energy, slope[:, :-1]


def _drawn(shape: tuple[int, ...], n_inputs: Tensor) -> nn.Parameter:
    """Weights as of linear layers: uniform, within one over the root of the number of inputs."""
    limit = n_inputs.view(-1, *[1] * (len(shape) - 1)).float().rsqrt()
    return nn.Parameter((2.0 * torch.rand(shape) - 1.0) * limit)


def _far(s: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Energy of far pairs, `(n,)` float64, and its slopes by s, `(n, n_far)`.

    Args:
        s: `(n, n_far)`, a / r.
        weights: `(n_powers, n_far)`, eV.
    """
    inside, beyond = s.clamp(max=1.0), (s - 1.0).clamp(min=0.0)
    energy, slope = WALL_EV * beyond.square(), 2.0 * WALL_EV * beyond
    below, done = torch.ones_like(s), 0
    for weight, power in zip(weights, POWERS, strict=True):
        below = below * inside.pow(power - 1 - done)
        done = power - 1
        steep = power * weight * below
        energy = energy + weight * below * inside + steep * beyond
        slope = slope + steep
    return energy.sum(1, dtype=torch.float64), slope
