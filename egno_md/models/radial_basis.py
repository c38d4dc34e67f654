"""How a distance enters a network: a smooth basis and a smooth end.

| function | formula |
|---|---|
| envelope | 1 - (p+1)(p+2)/2 u^p + p(p+2) u^(p+1) - p(p+1)/2 u^(p+2), u = d / cutoff |
| Bessel | sqrt(2 / cutoff) sin(n pi u) / d, n = 1..N |
| Gaussian | exp(-(d - c_n)^2 / (2 w^2)), w = spacing of the centres |

The envelope and its first two derivatives vanish at the cutoff, so forces and their slopes
stay continuous when atoms come and go.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def envelope(distances: Tensor, cutoff_A: float, power: int = 6) -> Tensor:
    """Return the polynomial that falls from 1 to 0 at the cutoff, twice continuously.

    Args:
        distances: any shape, Å, not negative.
        cutoff_A: where it reaches zero, Å.
        power: p of the formula; larger stays near 1 longer.

    Returns:
        Same shape, between 0 and 1; exactly 0 from the cutoff on.
    """
    u = (distances / cutoff_A).clamp(max=1.0)
    # The same polynomial with its triple root drawn out, so that no digits cancel there:
    # (1 - u)^3 times the first p terms of the series of (1 - u)^-3.
    series = torch.full_like(u, power * (power + 1) / 2)
    for k in range(power - 2, -1, -1):
        series = series * u + (k + 1) * (k + 2) / 2
    return (1.0 - u) ** 3 * series


class RadialBasis(nn.Module):
    """Expands distances in Bessel functions or wide Gaussians."""

    def __init__(self, cutoff_A: float, n_functions: int = 8, kind: str = "bessel") -> None:
        """Choose the functions.

        Args:
            cutoff_A: end of the range, Å.
            n_functions: how many, at least 2.
            kind: "bessel" or "gaussian".

        Raises:
            ValueError: for another kind, or too few functions.
        """
        super().__init__()
        if kind not in ("bessel", "gaussian"):
            raise ValueError(f'radial basis must be "bessel" or "gaussian", got {kind!r}')
        if n_functions < 2:
            raise ValueError(f"a radial basis needs at least 2 functions, got {n_functions}")
        self.cutoff_A = float(cutoff_A)
        self.kind = kind
        # Whole numbers, so that a change of dtype loses nothing.
        numbers = torch.arange(n_functions, dtype=torch.get_default_dtype())
        self.register_buffer("numbers", numbers, persistent=False)
        self.numbers: Tensor

    def forward(self, distances: Tensor) -> Tensor:
        """Return the functions at each distance, of order one.

        Args:
            distances: `(n,)`, Å, positive.

        Returns:
            `(n, n_functions)`.
        """
        d = distances[:, None]
        if self.kind == "bessel":
            waves = torch.sin(d * ((self.numbers + 1.0) * (math.pi / self.cutoff_A)))
            # sqrt(2 / cutoff) / d, times cutoff / 2 to be of order one.
            return waves * (math.sqrt(self.cutoff_A / 2.0) / d)
        spacing = self.cutoff_A / (len(self.numbers) - 1)
        return torch.exp(-0.5 * (d / spacing - self.numbers).square())
