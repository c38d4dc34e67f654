"""Error of a network's potential U_0 in energy: how deep basins are, which segments hardly tell.

Segments of a few femtoseconds and forces are ruled by stiff bonds. Whether one conformer lies
some meV above another hardly shows in them, but decides how often each is visited: by
Boltzmann's law, through the conserved energy of the map. So energies are matched directly.

What is compared is U_0 - E but for a constant and a multiple of `sum |F_i|^2 / m_i`. A splitting
of few stages is exact over a long step only if its potential holds such a term, of the second
order in the step; asking for U_0 = E would spoil the segments. Its factor is found by least
squares, in each batch and over the held-out frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import PairGraph
from egno_md.state import Molecule
from egno_md.training.lesson import ForceFrames
from egno_md.training.lesson_pairs import Pairs

#: Frames whose energies are worked out at once.
_FRAMES_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class EnergyLoss:
    """Root mean square of what is left of U_0 - E, over the spread of E in the training frames.

    Attributes:
        positions: `(n_frames, n_atoms, 3)`, Å.
        energies: `(n_frames,)`, eV, their mean taken off.
        squared_forces: `(n_frames,)`, sum of |F_i|^2 / m_i over its mean.
        spread_eV: their standard deviation.
        graph: the molecule's pairs.
    """

    positions: Tensor
    energies: Tensor
    squared_forces: Tensor
    spread_eV: float
    graph: PairGraph

    @classmethod
    def of(
        cls,
        frames: ForceFrames | None,
        molecule: Molecule,
        pairs: Pairs,
        like: Tensor,
        spread_eV: float | None = None,
    ) -> EnergyLoss:
        """Take labelled frames.

        Args:
            frames: with energies.
            molecule: whose frames.
            pairs: of the molecule.
            like: dtype and device to compute with.
            spread_eV: of the training frames; that of these when None.

        Raises:
            ValueError: if there are no energies, or the system is periodic.
        """
        if frames is None or frames.energies is None:
            raise ValueError("energies are matched only where a potential makes the data")
        if not isinstance(pairs, PairGraph):
            raise ValueError("energies are matched for molecules without a cell only, so far")
        energies = frames.energies.double() - frames.energies.double().mean()
        spread = float(energies.std()) if spread_eV is None else spread_eV
        squared = (frames.forces.double().square().sum(-1) / molecule.masses.double()).sum(-1)
        squared = squared / squared.mean().clamp_min(1e-12)
        positions, energies, squared = (
            part.to(like) for part in (frames.positions, energies, squared)
        )
        return cls(positions, energies, squared, max(spread, 1e-12), pairs)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw frames, `(n,)` int64."""
        return torch.randint(len(self.energies), (n,), generator=generator)

    def __call__(self, model: HamiltonianEGNO, rows: Tensor) -> Tensor:
        """Return the loss of some frames.

        Args:
            model: the network.
            rows: `(n,)` int64, three or more.
        """
        found = model.potentials(self.positions[rows], self.graph)[:, 0]
        left = _unexplained(found - self.energies[rows], self.squared_forces[rows])
        return left.square().mean().sqrt() / self.spread_eV

    @torch.no_grad()
    def error_eV(self, model: HamiltonianEGNO) -> float:
        """Root mean square error over all frames, eV."""
        parts = torch.split(self.positions, _FRAMES_AT_ONCE)
        found = torch.cat([model.potentials(x, self.graph)[:, 0] for x in parts])
        left = _unexplained((found - self.energies).double(), self.squared_forces.double())
        return float(left.square().mean().sqrt())


def _unexplained(off: Tensor, squared_forces: Tensor) -> Tensor:
    """Take from differences `(n,)` their mean and what goes with the squared forces, `(n,)`."""
    off, along = off - off.mean(), squared_forces - squared_forces.mean()
    return off - along * (along @ off) / (along @ along).clamp_min(1e-12)
