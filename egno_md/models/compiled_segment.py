"""Segments of a network whose weights stay as they are: no force twice, stages compiled.

A segment is a chain of equal stages,

    v <- v + s k,    x <- x + h v,    k <- h F(x, t) / m,

with s = 1/2 for the first stage of a step and 1 for the others; a frame is reached with another
half kick. The last kick of a segment is the first of the next one as long as nothing has moved,
whatever happened to the velocities.

A compiled stage is one graph of tensor operations, gradient included, with weights and pairs as
constants of it. A stage that starts at rest without a kick leaves x alone and gives k there, so
that a kick that had to be found again has the bits of the remembered one.

| symbol | variable |
|---|---|
| h | `HamiltonianEGNO.step_fs / n_stages` |
| k | `kick` |
| s | `share` |
| F(x, t) | `HamiltonianEGNO.force` |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from egno_md.models.frozen_graph import Compiling, frozen_graph
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import PairGraph
from egno_md.units import ACCELERATION_PER_FORCE

#: (x, v, k, s, weights of the modes) -> (x, v, k) after a stage.
_Stage = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class SegmentMap:
    """Applies a network's map to one molecule, with all its pairs listed.

    Compiled results are those of the network to rounding. A compiled stage belongs to one shape
    of the positions; each new shape costs up to a minute. Changed weights are noticed.
    """

    def __init__(
        self, model: HamiltonianEGNO, graph: PairGraph, compiling: Compiling | None = None
    ) -> None:
        """Take a network.

        Args:
            model: the network; its weights need no gradient.
            graph: all pairs of the molecule, on the network's device.
            compiling: how to compile; None: not at all.
        """
        self.model, self.graph, self.compiling = model, graph, compiling
        self.failure: str | None = None
        self._weights = [*model.parameters(), *model.buffers()]
        self._made: dict[tuple[object, ...], _Stage] = {}
        self._known: tuple[Tensor, Tensor] | None = None
        self._last_weights: list[tuple[int, int]] = []

    @torch.no_grad()
    def advance(self, positions: Tensor, velocities: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
        """Apply the map several times.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
            velocities: same shape, Å/fs.
            n_steps: applications of the map.

        Returns:
            Positions and velocities, the start first, `(n_replicas, 1 + n_steps, n_atoms, 3)`.

        Raises:
            RuntimeError: if compiling fails and is strict.
        """
        self._notice_weights()
        # Replicas cut from a segment keep odd strides, which would be compiled anew.
        both = (positions, velocities.to(positions))
        x, v = (given.reshape(-1).view(given.shape) for given in both)
        stage = self._stage(x)
        modes = [self._modes(k) for k in range(self.model.n_stages + 1)]
        half, whole = x.new_tensor(0.5), x.new_tensor(1.0)
        kick = self._first_kick(stage, x)
        xs, vs = [x], [v]
        for _ in range(n_steps):
            for k in range(1, self.model.n_stages + 1):
                x, v, kick = stage(x, v, kick, half if k == 1 else whole, modes[k])
            v = v + half * kick
            xs.append(x)
            vs.append(v)
        self._known = (x, kick)
        return torch.stack(xs, 1), torch.stack(vs, 1)

    def _first_kick(self, stage: _Stage, x: Tensor) -> Tensor:
        """The remembered kick if nothing has moved since, bit for bit."""
        if self._known is not None:
            there, kick = self._known
            alike = (there.dtype, there.device) == (x.dtype, x.device)
            if alike and torch.equal(there, x):
                return kick
        return stage(*self._at_rest(x))[2]

    def _at_rest(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What a stage takes that leaves positions alone and finds the first kick."""
        # Not one tensor of zeros: tracing and guards take the same tensor for the same input.
        v, kick = torch.zeros_like(x), torch.zeros_like(x)
        return x, v, kick, x.new_tensor(0.0), self._modes(0)

    def _modes(self, stage: int) -> Tensor:
        """Weights of the modes at a stage's time."""
        return self.model.stage_weights(stage).to(self.model.distance_mean)

    def _notice_weights(self) -> None:
        """Forget what was made with other weights."""
        now = [(weight.data_ptr(), weight._version) for weight in self._weights]
        if now != self._last_weights:
            self._made.clear()
            self._known, self._last_weights = None, now

    def _stage(self, x: Tensor) -> _Stage:
        """The stage for a shape, compiled where that is wanted and possible."""
        key = (tuple(x.shape), x.dtype, x.device)
        if key not in self._made:
            compiled = self._compiled(x)
            self._made[key] = self._plain(x) if compiled is None else compiled
        return self._made[key]

    def _plain(self, x: Tensor) -> _Stage:
        model, graph = self.model, self.graph
        return self._around(x, lambda x, modes: model.weighted_force(x, graph, modes))

    def _around(self, x: Tensor, force: Callable[[Tensor, Tensor], Tensor]) -> _Stage:
        """A stage made with a force, eV/Å, of positions and weights of the modes."""
        own = self.model.distance_mean.dtype
        interval = self.model.step_fs / self.model.n_stages
        per_force = (interval * ACCELERATION_PER_FORCE / self.graph.masses).to(x)[:, None]

        def stage(
            x: Tensor, v: Tensor, kick: Tensor, share: Tensor, modes: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            v = v + share * kick
            x = x + interval * v
            # Strides as those of the first kick: others would be compiled anew.
            return x, v, (per_force * force(x.to(own), modes).to(x)).contiguous()

        return stage

    def _compiled(self, x: Tensor) -> _Stage | None:
        """Compile, or say why not.

        Raises:
            RuntimeError: if that fails and is strict.
        """
        if self.compiling is None or self.failure is not None:
            return None
        stage = self._around(x, self._traceable_force)
        made = frozen_graph(stage, self._at_rest(x), self.compiling, "segments")
        if isinstance(made, str):
            self.failure = made
            return None
        return cast(_Stage, made)

    def _traceable_force(self, x: Tensor, modes: Tensor) -> Tensor:
        """The force by a derivative that tracing sees through."""

        def energy(y: Tensor) -> Tensor:
            return (self.model.potentials(y, self.graph) * modes).sum()

        gradient: Tensor = torch.func.grad(energy)(x)
        return -gradient
