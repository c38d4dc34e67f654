"""The published remedy for a network that loses energy: rescale all velocities after a segment.

With E the total energy at the start of the run, U the true potential energy at the end of a
segment and K the kinetic energy there, v <- v sqrt(1 - (U + K - E) / K), as FlashMD offers it. It
costs one true energy per segment. Where U alone exceeds E the root is of a negative number: what
comes out is not a number, and is counted as the failure that it is. It stands in the tables to
show what it does; `GuardedPropagator` and `Metropolised` are what to use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from egno_md.propagators.frame_grid import SameFrames
from egno_md.propagators.restart import named_under, taken_from
from egno_md.propagators.total_energy import total_energies
from egno_md.roles import Potential, Propagator
from egno_md.segment import Segment
from egno_md.state import State, kinetic_energy


class EnergyRescaled(SameFrames):
    """Segments whose last velocities are rescaled to the total energy of the first start."""

    reversible = False
    volume_preserving = False

    def __init__(self, propagator: Propagator, potential: Potential) -> None:
        """Wrap a propagator.

        Args:
            propagator: makes the segments; without a bath.
            potential: the true one.
        """
        self.propagator, self.potential = propagator, potential
        self._total: Tensor | None = None

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the segment, the velocities of its last frame rescaled.

        Args:
            state: where to start; the first one sets the energy.
            n_frames: how many frames; a full segment when None.

        Raises:
            ValueError: as the propagator or the potential does.
        """
        if self._total is None:
            self._total = total_energies(self.potential, state)
        # Some replicas alone, where all together failed, keep the energy they have.
        alike = len(self._total) == state.n_replicas
        total = self._total if alike else total_energies(self.potential, state)
        segment = self.propagator.advance(state, n_frames)
        last = segment.last
        kinetic = kinetic_energy(state.molecule, last.velocities)
        factor = (1.0 - (total_energies(self.potential, last) - total) / kinetic).sqrt()
        v = segment.velocities.clone()
        v[:, -1] *= factor.to(v)[:, None, None]
        return replace(segment, velocities=v)

    def restart_state(self) -> dict[str, Tensor]:
        """The energy to keep and what the propagator needs."""
        mine = {} if self._total is None else {"total_eV": self._total}
        return mine | named_under("propagator", self.propagator.restart_state())

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave."""
        self._total = saved.get("total_eV")
        self.propagator.restore(taken_from("propagator", saved))
