"""A potential that counts its evaluations and does not repeat the last one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from egno_md.roles import EnergyForces, Potential
from egno_md.state import State


class RememberedPotential:
    """Asks the potential behind it unless positions and cell are those of last time, bit for bit.

    Attributes:
        potential: the one that is asked.
        evaluations: how often it was.
    """

    def __init__(self, potential: Potential) -> None:
        """Put it in front of a potential.

        Args:
            potential: must not depend on anything but positions and cell of the same molecule.
        """
        self.potential = potential
        self.evaluations = 0
        self._key: tuple[Tensor, Tensor | None] | None = None
        self._result: EnergyForces | None = None

    def evaluate(self, state: State) -> EnergyForces:
        """Return energies and forces, remembered or new.

        Args:
            state: positions in Å.

        Raises:
            ValueError: as the potential does.
        """
        if self._result is None or not self._same(state):
            self._result = self.potential.evaluate(state)
            self._key = (state.positions, state.cell)
            self.evaluations += 1
        return self._result

    def energies(self, state: State) -> Tensor:
        """Return energies only, `(n_replicas,)` float64, eV."""
        return self.potential.energies(state)

    def restart_state(self) -> dict[str, Tensor]:
        """The remembered result and the positions and cell it belongs to."""
        if self._result is None or self._key is None:
            return {}
        positions, cell = self._key
        saved = {"positions": positions, "forces": self._result.forces}
        saved["energy"] = self._result.energy
        return saved if cell is None else saved | {"cell": cell}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave; nothing is remembered where that is incomplete."""
        self._key = self._result = None
        if {"positions", "forces", "energy"} <= saved.keys():
            self._key = (saved["positions"], saved.get("cell"))
            self._result = EnergyForces(saved["energy"], saved["forces"])

    def _same(self, state: State) -> bool:
        if self._key is None:
            return False
        positions, cell = self._key
        return _same_bits(positions, state.positions) and _same_bits(cell, state.cell)


def _same_bits(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a is b or (a.dtype == b.dtype and a.device == b.device and torch.equal(a, b))
