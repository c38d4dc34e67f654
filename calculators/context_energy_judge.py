"""The judge that asks the simulated OpenMM system itself."""

from __future__ import annotations

from collections.abc import Mapping

import openmm
import torch
from torch import Tensor

from egno_md.calculators.context_frames import ContextFrames
from egno_md.propagators.energy_frames import EnergyFrames, Watchfulness
from egno_md.propagators.guarded import finite_frames, leading
from egno_md.roles import Verdict
from egno_md.segment import Segment
from egno_md.state import State, kinetic_energy
from egno_md.units import KJ_PER_MOL


class ContextEnergyJudge:
    """Accepts frames whose total energy by a context's system is that of the start, within a limit.

    The system may have virtual sites, atoms without mass and a cell. Only the last frame is
    evaluated as long as it passes, unless every frame is asked for, see `Watchfulness`. The
    context is left at the last frame looked at.
    """

    name = "energy of the system"

    def __init__(
        self, frames: ContextFrames, limit_eV: float, asked: EnergyFrames = "last"
    ) -> None:
        """Set the limit.

        Args:
            frames: of the context.
            limit_eV: largest change of the total energy over a segment, either way.
            asked: "last"; "all"; or "auto": all at first and while many are rejected, else the
                last.

        Raises:
            ValueError: if the limit is not positive, or `asked` is something else.
        """
        if not 0.0 < limit_eV < float("inf"):
            raise ValueError(f"the limit of the energy is {limit_eV} eV; it must be positive")
        self._frames = frames
        self.limit_eV = limit_eV
        self.watchfulness = Watchfulness(asked)

    def judge(self, start: State, segment: Segment) -> Verdict:
        """Compare the total energy at the end, and where needed before, with the start's."""
        n = segment.n_frames
        found = torch.full((1, n), float("nan"), dtype=torch.float64)
        kinetic = kinetic_energy(segment.molecule, segment.velocities).cpu()[0]
        before = self._potential(start.positions[0], start.velocities[0])
        before += float(kinetic_energy(start.molecule, start.velocities)[0])
        good = finite_frames(segment)[0]

        def change(k: int) -> float:
            if good[k]:
                found[0, k] = self._potential(segment.positions[0, k], segment.velocities[0, k])
            return float(found[0, k] + kinetic[k]) - before

        last = change(n - 1)
        if abs(last) <= self.limit_eV and not self.watchfulness.every_frame:
            self.watchfulness.note(torch.ones(1, dtype=torch.bool))
            return Verdict(torch.tensor([n]), (None,), found)
        changes = torch.tensor([[*(change(k) for k in range(n - 1)), last]], dtype=torch.float64)
        kept = int(leading(changes.abs() <= self.limit_eV)[0])
        self.watchfulness.note(torch.tensor([kept == n]))
        why = None
        if kept < n:
            why = (
                f"the total energy changes by {float(changes[0, kept]):.3g} eV from the start of "
                f"the segment; allowed {self.limit_eV:g} eV"
            )
        return Verdict(torch.tensor([kept]), (why,), found)

    def restart_state(self) -> dict[str, Tensor]:
        """The latest verdicts."""
        return self.watchfulness.restart_state()

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave.

        Raises:
            ValueError: if the record is not of such a judge.
        """
        self.watchfulness.restore(saved)

    def _potential(self, positions: Tensor, velocities: Tensor) -> float:
        """Potential energy, eV; NaN where OpenMM refuses the geometry."""
        self._frames.put(positions, velocities)
        try:
            state = self._frames.context.getState(energy=True)
        except openmm.OpenMMException:
            return float("nan")
        return float(state.getPotentialEnergy()._value) * KJ_PER_MOL
