"""Hamiltonian EGNO with adaptive steps: a graph layer gives the potential, its motion the path.

EGNO (Xu et al., ICML 2024, arXiv 2401.11037) maps a state to a whole path, and so does this
network; but its graph layer gives an invariant potential, and the path is the motion in it, in
real time. So the path starts at the given state, any times can be asked for, linear momentum
is conserved to rounding, and the map commutes with rotations, reflections and permutations,
whatever the weights are. (Angular momentum is conserved by the steps, not by the interpolation
between them.) There are no Fourier modes here: a potential that depends on time earns its
place where few long steps are taken, not where the steps adapt.

With `s = log sqrt(r^2 + d^2)` of a pair, its features `e`, radial features `f(s)` (Gaussians of
`s`, `s` itself and `exp(-s)`), and `[f, e f]` all their products:

| part | equation |
|---|---|
| message | `m_ij = SiLU(W [f, e f] + b) = m_ji` |
| node | `h_i = sum_j m_ij` |
| potential | `U = sum_{i<j} (a . m_ij + c . [f, e f]) + sum_i A' . SiLU(A h_i + B)` |
| frequency | `Omega^2 = Omega_0^2 + sum_{i<j} abs(g_ij)`, bounded by `Omega_max` |

Forces are `F_i = sum_j g_ij (x_i - x_j)`, `g_ij = -dU/ds_ij / (r^2 + d^2)`, written out, so that
training differentiates once. The frequency is that of the learned forces themselves; it only
chooses the steps and passes no gradient. The radial features contain `1 / r`: Coulomb's law is
one of the laws in reach, not given.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from egno_md.models.adaptive_steps import follow

#: Range of distances that the radial features tell apart, unit of length.
NEAREST: Final = 0.05
FURTHEST: Final = 12.0


def _silu_slope(z: Tensor) -> Tensor:
    """Derivative of SiLU."""
    sigmoid = torch.sigmoid(z)
    return sigmoid * (1.0 + z * (1.0 - sigmoid))


class AdaptiveEGNO(nn.Module):
    """A learned potential of pairs and their surroundings, and the motion in it.

    Attributes:
        phase_step: step in units of phase; may be changed after training, smaller is finer.
    """

    centres: Tensor

    def __init__(
        self,
        n_pair_features: int,
        *,
        n_hidden: int = 32,
        n_radial: int = 20,
        softening: float = 0.04,
        slowest: float = 1.0,
        fastest: float = 60.0,
        phase_step: float = 0.3,
    ) -> None:
        """Make a network with random weights; without training its motion is free flight.

        Args:
            n_pair_features: invariant features of a pair, the same from both ends.
            n_hidden: channels of messages and nodes.
            n_radial: Gaussians of the logarithm of the distance, at least 2.
            softening: `d`, unit of length; closer than this nothing is resolved.
            slowest: `Omega_0`, frequency of free flight, 1 / unit of time.
            fastest: `Omega_max`, largest frequency, 1 / unit of time.
            phase_step: step in units of phase, frequency times time.

        Raises:
            ValueError: if a number is out of range.
        """
        super().__init__()
        for name, value, least in (
            ("n_pair_features", n_pair_features, 1),
            ("n_hidden", n_hidden, 1),
            ("n_radial", n_radial, 2),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 < softening < math.inf or not 0 < phase_step < math.inf:
            raise ValueError(
                f"softening and phase_step must be positive, got {softening} and {phase_step}"
            )
        if not 0 < slowest < fastest < math.inf:
            raise ValueError(f"frequencies must be 0 < slowest < fastest, got {slowest}, {fastest}")
        self.n_pair_features, self.softening = n_pair_features, softening
        self.slowest, self.fastest, self.phase_step = slowest, fastest, phase_step
        centres = torch.linspace(math.log(NEAREST), math.log(FURTHEST), n_radial)
        self.register_buffer("centres", centres, persistent=False)
        self.width = 1.2 * math.log(FURTHEST / NEAREST) / (n_radial - 1)
        n_inputs = (n_radial + 2) * (1 + n_pair_features)
        self.message = nn.Linear(n_inputs, n_hidden)
        self.of_message = nn.Linear(n_hidden, 1, bias=False)
        self.of_radial = nn.Linear(n_inputs, 1, bias=False)
        self.node = nn.Linear(n_hidden, n_hidden)
        self.of_node = nn.Linear(n_hidden, 1, bias=False)
        for readout in (self.of_message, self.of_radial, self.of_node):
            nn.init.zeros_(readout.weight)

    def potential(self, positions: Tensor, pair_features: Tensor, pairs: Tensor) -> Tensor:
        """Learned potential of each graph.

        Args:
            positions: `(B, N, 3)`, unit of length of the training data.
            pair_features: `(B, n_pairs, n_pair_features)`.
            pairs: `(2, n_pairs)` int64, each pair once, the same for all graphs.

        Returns:
            `(B,)`, unit of mass times unit of velocity squared.
        """
        i, j = pairs[0], pairs[1]
        _, soft = self._separations(positions, i, j)
        inputs, _ = self._inputs(0.5 * soft.log(), pair_features)
        message = silu(self.message(inputs))
        h = message.new_zeros(*positions.shape[:2], message.shape[-1])
        h = h.index_add(1, i, message).index_add(1, j, message)
        of_pairs = self.of_message(message) + self.of_radial(inputs)
        of_nodes: Tensor = self.of_node(silu(self.node(h)))
        total: Tensor = of_pairs.sum(1) + of_nodes.sum(1)
        return total[:, 0]

    def forces(
        self, positions: Tensor, pair_features: Tensor, pairs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Minus the gradient of the potential, and the frequency of the motion.

        Args:
            positions: `(B, N, 3)`.
            pair_features: `(B, n_pairs, n_pair_features)`.
            pairs: `(2, n_pairs)` int64.

        Returns:
            forces `(B, N, 3)` and frequencies `(B,)`, 1 / unit of time.
        """
        i, j = pairs[0], pairs[1]
        r, soft = self._separations(positions, i, j)
        inputs, slopes = self._inputs(0.5 * soft.log(), pair_features)
        z = self.message(inputs)
        message = silu(z)
        h = message.new_zeros(*positions.shape[:2], message.shape[-1])
        h = h.index_add(1, i, message).index_add(1, j, message)
        of_node = self.of_node.weight[0] * _silu_slope(self.node(h))
        surroundings = linear(of_node, self.node.weight.T)
        weight = self.of_message.weight[0] + surroundings[:, i] + surroundings[:, j]
        message_slope = _silu_slope(z) * linear(slopes, self.message.weight)
        slope = (weight * message_slope).sum(-1) + self.of_radial(slopes)[..., 0]
        stiffness = -slope / soft
        push = stiffness[..., None] * r
        forces = torch.zeros_like(positions).index_add(1, i, push).index_add(1, j, -push)
        with torch.no_grad():
            square = self.slowest**2 + stiffness.abs().sum(-1)
            frequency = (1.0 / square + self.fastest**-2).rsqrt()
        return forces, frequency

    def forward(
        self,
        positions: Tensor,
        velocities: Tensor,
        pair_features: Tensor,
        pairs: Tensor,
        times: Tensor,
        masses: Tensor | None = None,
        gradient_bound: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """States at any times.

        Args:
            positions: `(B, N, 3)` at time 0.
            velocities: `(B, N, 3)` at time 0, unit of length per unit of time.
            pair_features: `(B, n_pairs, n_pair_features)`.
            pairs: `(2, n_pairs)` int64, each pair once, the same for all graphs.
            times: `(P,)`, not negative, in any order.
            masses: `(B, N)`; None for 1.
            gradient_bound: largest gradient that each graph's state passes back per step, so
                that chaotic graphs cannot drown the others in training; None bounds nothing.

        Returns:
            positions and velocities `(B, P, N, 3)`.

        Raises:
            ValueError: if a shape does not fit or a time is negative.
        """
        expected = (positions.shape[0], pairs.shape[-1], self.n_pair_features)
        if tuple(pair_features.shape) != expected:
            raise ValueError(
                f"pair_features must have shape {expected}, got {tuple(pair_features.shape)}"
            )
        if velocities.shape != positions.shape:
            raise ValueError(
                f"velocities have shape {tuple(velocities.shape)}, positions "
                f"{tuple(positions.shape)}"
            )

        def accelerate(x: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
            forces, frequency = self.forces(x, pair_features[active], pairs)
            if masses is not None:
                forces = forces / masses[active][..., None]
            return forces, frequency

        return follow(
            accelerate,
            positions,
            velocities,
            times,
            self.phase_step,
            gradient_bound,
        )

    def _separations(self, positions: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors `(B, n_pairs, 3)` from j to i and their softened squares `(B, n_pairs)`."""
        r = positions[:, i] - positions[:, j]
        return r, r.square().sum(-1) + self.softening**2

    def _inputs(self, s: Tensor, pair_features: Tensor) -> tuple[Tensor, Tensor]:
        """Radial features and their products with the pair's, and derivatives by `s`."""
        z = (s[..., None] - self.centres) / self.width
        gauss, inverse = torch.exp(-0.5 * z.square()), torch.exp(-s)[..., None]
        radial = torch.cat((gauss, s[..., None] / 3.0, inverse), -1)
        third = torch.full_like(inverse, 1.0 / 3.0)
        slope = torch.cat((-gauss * z / self.width, third, -inverse), -1)
        both = torch.stack((radial, slope))
        products = (pair_features[..., None] * both[..., None, :]).flatten(-2)
        inputs, slopes = torch.cat((both, products), -1)
        return inputs, slopes
