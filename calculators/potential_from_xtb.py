"""GFN-xTB as a potential: quantum mechanics at the price of a few milliseconds.

Needs tblite (`pip install 'egno-md[qm]'`). tblite starts a new geometry from the density of the
one before, which changes forces by some 1e-6 eV/Å; here every evaluation starts anew, so that the
same state gives the same bits, whatever was asked before.
"""

from __future__ import annotations

import importlib.util
from typing import Final

from ase.calculators.calculator import BaseCalculator
from torch import Tensor

from egno_md.calculators.potential_from_ase import ASEPotential
from egno_md.roles import EnergyForces
from egno_md.state import State

#: Methods by their short names.
METHODS: Final = {"gfn1": "GFN1-xTB", "gfn2": "GFN2-xTB"}


def has_tblite() -> bool:
    """Whether tblite is installed."""
    return importlib.util.find_spec("tblite") is not None


class XTBPotential:
    """Energies and forces of GFN1-xTB (Grimme 2017) or GFN2-xTB (Bannwarth 2019).

    Systems are neutral and have no spin.
    """

    def __init__(self, method: str = "gfn2") -> None:
        """Choose the method.

        Args:
            method: "gfn1" or "gfn2".

        Raises:
            ValueError: if there is no such method, or tblite is not installed.
        """
        if method not in METHODS:
            raise ValueError(f"xtb:{method} is not known; there are xtb:{', xtb:'.join(METHODS)}")
        if not has_tblite():
            raise ValueError(f"xtb:{method} needs tblite: pip install 'egno-md[qm]'")
        self.method = METHODS[method]

    def _calculator(self) -> BaseCalculator:
        from tblite.ase import TBLite

        made: BaseCalculator = TBLite(method=self.method, verbosity=0)
        return made

    def evaluate(self, state: State) -> EnergyForces:
        """Return energies and forces of every replica.

        Args:
            state: positions in Å.

        Raises:
            ValueError: naming the replica that does not converge, or the atom whose result is not
                finite.
        """
        return self._fresh().evaluate(state)

    def energies(self, state: State) -> Tensor:
        """Return energies only, `(n_replicas,)` float64, eV.

        Raises:
            ValueError: as `evaluate` does.
        """
        return self._fresh().energies(state)

    def _fresh(self) -> ASEPotential:
        return ASEPotential(self._calculator(), self._calculator)
