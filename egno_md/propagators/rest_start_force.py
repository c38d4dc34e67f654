"""A reversible map from any propagator: velocity Verlet with the force of a start at rest.

Let go at rest, atoms are somewhere else after a time dt. The constant force that would have
brought them there,

    F(x) = 2 m (x(dt; v = 0) - x) / dt^2,

depends on positions only. Velocity Verlet with it is a sequence of shears, so it is reversible
and preserves volume even where the propagator does neither, and F need not be the slope of
anything. With steps of dt it is exact for a harmonic mode that the propagator gets right, as
Gautschi's integrators are; beyond a turn of about 1.5 rad per step it is not stable. That makes
proposals of direct networks.

| symbol | variable |
|---|---|
| x(dt; v = 0) | `end` |
| dt | `span_fs` |
"""

from __future__ import annotations

import torch
from torch import Tensor

from egno_md.propagators.own_baths import refuse_rest_start
from egno_md.roles import EnergyForces, Propagator
from egno_md.state import State
from egno_md.units import EV_PER_AMU_A2_FS2


class RestStartForce:
    """Forces for `VelocityVerlet(RestStartForce(propagator), dt, ...)`; there are no energies."""

    #: Whether forces are minus the gradient of the energy.
    conservative = False
    #: Nobody can ask for an energy.
    has_energy = False

    def __init__(self, propagator: Propagator, n_frames: int = 1) -> None:
        """Take a propagator.

        Args:
            propagator: without a bath: the same start must give the same segment.
            n_frames: how many of its frames are dt.

        Raises:
            ValueError: if there are no frames, or the propagator has a bath.
        """
        if n_frames < 1:
            raise ValueError(f"n_frames is {n_frames}; a segment has at least one frame")
        refuse_rest_start(propagator)
        self.propagator, self.n_frames = propagator, n_frames

    @property
    def span_fs(self) -> float:
        """Time dt that the force stands for, which is the step to take with it."""
        return self.n_frames * self.propagator.frame_interval_fs

    def evaluate(self, state: State) -> EnergyForces:
        """Return the forces; energies are NaN, because there are none.

        Args:
            state: velocities are not looked at.

        Raises:
            ValueError: if the segment is not finite, or as the propagator does.
        """
        at_rest = state.with_(velocities=torch.zeros_like(state.velocities))
        end = self.propagator.advance(at_rest, self.n_frames).last
        per_move = 2.0 * EV_PER_AMU_A2_FS2 / self.span_fs**2 * state.molecule.masses
        forces = per_move.to(state.positions)[:, None] * (end.positions - state.positions)
        unknown = torch.full((state.n_replicas,), float("nan"), dtype=torch.float64)
        return EnergyForces(unknown, forces)

    def energies(self, state: State) -> Tensor:
        """Refuse.

        Raises:
            ValueError: always.
        """
        raise ValueError("the force of a start at rest is not the slope of an energy: it has none")
