"""What networks that know one molecule share: its atoms, which of them are alike, its distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from egno_md.models.molecule_parts import Fragments, alike_atoms, fragments_of


class OneMolecule(nn.Module):
    """A network of one molecule, or of several that stay together, in one order of atoms.

    Energies are functions of all distances, so forces come from their slopes by `forces_of`.
    """

    name = "one-molecule"

    place: Tensor
    pair_of: Tensor
    energy_offset_eV: Tensor
    energy_scale_eV: Tensor

    def __init__(
        self, numbers: Sequence[int], bonds: Sequence[Sequence[int]], *, width: int
    ) -> None:
        """Take in the molecule.

        Args:
            numbers: atomic numbers, in the order of the atoms; two atoms at least.
            bonds: pairs of atoms.
            width: of the hidden layers.

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
        self.register_buffer("energy_offset_eV", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("energy_scale_eV", torch.ones(1))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of atoms, in the order of their distances."""
        n = len(self.numbers)
        return [(p // n, p % n) for p in self.place.tolist()]

    def architecture(self) -> dict[str, Any]:
        """The molecule and the width, as plain JSON."""
        return {
            "name": self.name,
            "numbers": list(self.numbers),
            "bonds": [list(bond) for bond in self.bonds],
            "width": self.width,
        }

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> Self:
        """Make an untrained network as a card describes it.

        Args:
            architecture: what `architecture()` gave.
        """
        given = {k: v for k, v in architecture.items() if k != "name"}
        return cls(given.pop("numbers"), given.pop("bonds"), **given)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur."""
        return tuple(sorted(set(self.numbers)))

    @property
    def cutoff_A(self) -> None:
        """None: every pair is seen."""
        return None

    @property
    def fragments(self) -> Fragments:
        """The molecules that bonds join."""
        return fragments_of(self.numbers, self.bonds)

    @property
    def alike(self) -> tuple[tuple[int, ...], ...]:
        """Groups of atoms of one element whose only bond is to one and the same atom."""
        return alike_atoms(self.numbers, self.bonds)

    def shuffled(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw orders of the atoms in which it is the same molecule.

        Alike atoms change places, and molecules of one kind.

        Args:
            n: how many.
            generator: source of randomness.

        Returns:
            `(n, n_atoms)` int64; positions in this order are of the same molecule.
        """
        atoms = torch.arange(len(self.numbers)).repeat(n, 1)
        for same in self.fragments.alike():
            whole = torch.tensor(same)
            order = torch.rand((n, len(whole)), generator=generator).argsort(1)
            atoms[:, whole.flatten()] = whole[order].flatten(1)
        for group in map(torch.tensor, self.alike):
            order = torch.rand((n, len(group)), generator=generator).argsort(1)
            atoms[:, group] = atoms[:, group].gather(1, order)
        return atoms

    def inverse_distances(self, x: Tensor) -> Tensor:
        """1 / r of all pairs, `(n, n_pairs)`, 1/Å.

        Args:
            x: `(n, n_atoms, 3)`, Å, best centred and in float64.
        """
        products = x @ x.mT
        squares = products.diagonal(dim1=1, dim2=2)
        apart = torch.add(squares[:, :, None] + squares[:, None], products, alpha=-2.0)
        return apart.flatten(1).index_select(1, self.place).rsqrt()

    def forces_of(self, slope: Tensor, inverse: Tensor, x: Tensor) -> Tensor:
        """Forces `(n, n_atoms, 3)`, eV/Å, from the slopes of the energy.

        Args:
            slope: `(n, n_pairs)`, derivatives by 1 / r, eV Å.
            inverse: `(n, n_pairs)`, 1 / r, 1/Å.
            x: `(n, n_atoms, 3)`, Å.
        """
        # With u = 1/r the force on i from j is dE/du u^3 (x_i - x_j); summed over all j.
        n, n_atoms, _ = x.shape
        push = (slope * inverse.pow(3)).to(x)
        table = push.index_select(1, self.pair_of).view(n, n_atoms, n_atoms)
        return torch.baddbmm(table.sum(2, keepdim=True) * x, table, x, alpha=-1.0)

    def scale_to(self, positions: Tensor, energies: Tensor, forces: Tensor) -> None:
        """Take means and spreads of features and labels from frames.

        Args:
            positions: `(n_frames, n_atoms, 3)`, Å.
            energies: `(n_frames,)`, eV.
            forces: `(n_frames, n_atoms, 3)`, eV/Å.
        """
        with torch.no_grad():
            self._scale_features(self.inverse_distances(positions.to(torch.float64)))
            self.energy_offset_eV.copy_(energies.mean())
            self.energy_scale_eV.copy_(forces.square().mean().sqrt())

    def widen_to(self, positions: Tensor) -> None:
        """Take in frames beyond those that `scale_to` saw; nothing to do where all is smooth.

        Args:
            positions: `(n_frames, n_atoms, 3)`, Å.
        """

    def folded(self) -> object:
        """Work mean, spread and scale into the weights, once for many evaluations."""
        raise NotImplementedError

    def _scale_features(self, inverse: Tensor) -> None:
        """Take means and spreads from `(n_frames, n_pairs)`, 1/Å."""
        raise NotImplementedError


def silu(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x sigmoid(x) and its derivative.

    Args:
        x: any shape.
    """
    gate = torch.sigmoid(x)
    value = x * gate
    return value, torch.addcmul(gate + value, gate, value, value=-1.0)
