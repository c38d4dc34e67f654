"""Error of a network's potential U_0 in energy: how deep basins are, which segments hardly tell.

Segments of a few femtoseconds and forces are ruled by stiff bonds. Whether one conformer lies
some meV above another hardly shows in them, but decides how often each is visited: by
Boltzmann's law, through the conserved energy of the map, which is the kinetic energy and U_0 up
to terms of the second order in the step. So energies are matched directly, up to a constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import PairGraph
from egno_md.training.lesson import ForceFrames
from egno_md.training.lesson_pairs import Pairs

#: Frames whose energies are worked out at once.
_FRAMES_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class EnergyLoss:
    """Root mean square of U_0 - E about its mean, over the spread of E in the training frames.

    Attributes:
        positions: `(n_frames, n_atoms, 3)`, Å.
        energies: `(n_frames,)`, eV, their mean taken off.
        spread_eV: their standard deviation.
        graph: the molecule's pairs.
    """

    positions: Tensor
    energies: Tensor
    spread_eV: float
    graph: PairGraph

    @classmethod
    def of(
        cls, frames: ForceFrames | None, pairs: Pairs, like: Tensor, spread_eV: float | None = None
    ) -> EnergyLoss:
        """Take labelled frames.

        Args:
            frames: with energies.
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
        return cls(frames.positions.to(like), energies.to(like), max(spread, 1e-12), pairs)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw frames, `(n,)` int64."""
        return torch.randint(len(self.energies), (n,), generator=generator)

    def __call__(self, model: HamiltonianEGNO, rows: Tensor) -> Tensor:
        """Return the loss of some frames.

        Args:
            model: the network.
            rows: `(n,)` int64, two or more.
        """
        off = model.potentials(self.positions[rows], self.graph)[:, 0] - self.energies[rows]
        return (off - off.mean()).square().mean().sqrt() / self.spread_eV

    @torch.no_grad()
    def error_eV(self, model: HamiltonianEGNO) -> float:
        """Root mean square error over all frames, eV."""
        parts = torch.split(self.positions, _FRAMES_AT_ONCE)
        found = torch.cat([model.potentials(x, self.graph)[:, 0] for x in parts])
        off = (found - self.energies).double()
        return float((off - off.mean()).square().mean().sqrt())
