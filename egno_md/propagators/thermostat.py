"""A bath for any propagator: friction and noise act on the velocities between segments."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from egno_md.propagators.classical import OrnsteinUhlenbeck
from egno_md.propagators.frame_grid import SameFrames
from egno_md.propagators.own_baths import refuse_second_bath
from egno_md.propagators.restart import named_under, taken_from
from egno_md.roles import Propagator
from egno_md.segment import Segment
from egno_md.state import State


class Thermostatted(SameFrames):
    """Friction and noise for the span of a segment, then the segment.

    The kick is the exact solution of the Ornstein-Uhlenbeck process, so if the segments keep
    the canonical distribution the whole does, however long they are. The dynamics is that of
    Langevin only when the friction times the span is small.
    """

    reversible = False
    volume_preserving = False
    has_bath = True

    def __init__(
        self,
        propagator: Propagator,
        temperature_K: float,
        friction_per_ps: float,
        generator: torch.Generator,
    ) -> None:
        """Wrap a propagator.

        Args:
            propagator: makes the segments; without a bath of its own.
            temperature_K: temperature of the bath.
            friction_per_ps: friction.
            generator: source of randomness, not shared with the wrapped propagator if a run
                is to be repeatable whatever that one does.

        Raises:
            ValueError: if the propagator has a bath, or a number is negative or not finite.
        """
        refuse_second_bath(propagator, "Thermostatted", "leave Thermostatted out")
        self.propagator = propagator
        self._bath = OrnsteinUhlenbeck(temperature_K, friction_per_ps, generator)

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Kick the velocities, then return the segment that follows.

        Args:
            state: where to start.
            n_frames: how many frames; a full segment when None.

        Raises:
            ValueError: if no frames are asked for, or as the wrapped propagator does.
        """
        count = self.n_frames if n_frames is None else n_frames
        if count < 1:
            raise ValueError(f"n_frames is {count}; ask for at least one frame")
        span_fs = count * self.frame_interval_fs
        kicked = self._bath.kicked(state.molecule, state.velocities, span_fs)
        return self.propagator.advance(state.with_(velocities=kicked), count)

    def restart_state(self) -> dict[str, Tensor]:
        """The generator's state and what the wrapped propagator needs."""
        inner = self.propagator.restart_state()
        return self._bath.restart_state() | named_under("propagator", inner)

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave."""
        self._bath.restore(saved)
        self.propagator.restore(taken_from("propagator", saved))
