r"""Repulsion of nuclei at short range, where no training data is.

The screened Coulomb energy of Ziegler, Biersack and Littmark (The Stopping and Range of Ions in
Solids, 1985), brought to zero where the atoms' covalent radii touch:

.. math::
    E_{ij} = k \frac{Z_i Z_j}{d} \phi(d / a) \, \mathrm{env}(d / (R_i + R_j)), \qquad
    a = \frac{0.8854\, a_0}{Z_i^{0.23} + Z_j^{0.23}}

| symbol | variable | value |
|---|---|---|
| k | `_COULOMB` | e^2 / (4 pi eps0), eV Å |
| phi | `_SCREENING` | sum of four exponentials, phi(0) = 1 |
| R | `radii` | covalent radii of ASE, Å |
| env | `radial_basis.envelope` | 1 at 0, and 0 with two derivatives at the end |
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from egno_md.models.radial_basis import envelope

#: e^2 / (4 pi eps0), eV Å (CODATA 2018).
_COULOMB: Final = 14.3996454784
#: 0.8854 Bohr radii, Å.
_SCREENING_LENGTH_A: Final = 0.8854 * 0.529177210903
#: Coefficients and rates of the screening function.
_SCREENING: Final = ((0.1818, 3.2), (0.5099, 0.9423), (0.2802, 0.4029), (0.02817, 0.2016))


class Repulsion(nn.Module):
    """Energy of pairs of nuclei; has no weights."""

    def __init__(self) -> None:
        """Make the tables of all elements."""
        super().__init__()
        from ase.data import covalent_radii

        radii = torch.tensor(covalent_radii[:119], dtype=torch.get_default_dtype())
        powers = torch.arange(119, dtype=torch.get_default_dtype()) ** 0.23
        self.register_buffer("radii", radii, persistent=False)
        self.register_buffer("powers", powers, persistent=False)
        self.radii: Tensor
        self.powers: Tensor

    def forward(self, distances: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return the energy of each pair.

        Args:
            distances: `(n,)`, Å, positive.
            first: `(n,)` int64, atomic numbers.
            second: `(n,)` int64, atomic numbers.

        Returns:
            `(n,)`, eV.
        """
        reach = self.radii.index_select(0, first) + self.radii.index_select(0, second)
        inside = envelope(distances / reach, 1.0)
        widths = self.powers.index_select(0, first) + self.powers.index_select(0, second)
        x = distances * widths / _SCREENING_LENGTH_A
        screening = sum((c * torch.exp(-rate * x) for c, rate in _SCREENING), torch.zeros_like(x))
        charges = (first * second).to(distances.dtype)
        energy: Tensor = _COULOMB * charges / distances * screening * inside
        return energy
