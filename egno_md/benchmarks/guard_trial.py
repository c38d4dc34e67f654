"""A run under a guard in which every frame is checked again, by other code than the judges'."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

import torch
from torch import Tensor

from egno_md.propagators.by_replicas import by_replicas
from egno_md.propagators.frame_grid import SameFrames
from egno_md.propagators.guarded import GuardedPropagator
from egno_md.propagators.thermostat import Thermostatted
from egno_md.propagators.total_energy import total_energies
from egno_md.roles import Potential, Propagator
from egno_md.segment import MadeBy, Segment
from egno_md.state import State

#: A frame of the network has failed when a bond is further from its reference, Å, ...
FAILED_BOND_A: Final = 0.5

#: ... or its total energy from that of the start of its proposal, eV: the default limit of a run.
FAILED_ENERGY_EV: Final = 0.1


@dataclass(slots=True)
class TrialResult:
    """What a trial came to.

    Attributes:
        proposals: judged.
        undetected: frames of the network that were kept though they had failed.
        rejections: proposals cut, by judge.
        false_alarms: those with all energy errors within the judge's limit and all bonds within
            `FAILED_BOND_A`.
        frames: of the network and of the integrator.
        largest_energy_eV: largest energy error of a kept frame of the network.
        largest_bond_A: largest deviation of a bond in one.
        cpu_s: processor time.
        check_cpu_s: of that, for the check.
        stopped: why the run ended early, or None.
    """

    proposals: int = 0
    undetected: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    false_alarms: int = 0
    frames: dict[str, int] = field(default_factory=lambda: {"NETWORK": 0, "INTEGRATOR": 0})
    largest_energy_eV: float = 0.0
    largest_bond_A: float = 0.0
    cpu_s: float = 0.0
    check_cpu_s: float = 0.0
    stopped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> TrialResult:
        """Take back what `to_json` gave."""
        return cls(**{**found, "rejections": Counter(found["rejections"])})

    @property
    def n_rejected(self) -> int:
        """Proposals cut."""
        return self.rejections.total()

    @property
    def network_share(self) -> float:
        """Share of the frames that the network made."""
        made = sum(self.frames.values())
        return self.frames["NETWORK"] / made if made else 0.0


class Recorded(SameFrames):
    """A propagator that remembers its last segment."""

    reversible = volume_preserving = False

    def __init__(self, propagator: Propagator) -> None:
        """Wrap a propagator."""
        self.propagator = propagator
        self.last: Segment | None = None

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the segment that follows `state`."""
        self.last = self.propagator.advance(state, n_frames)
        return self.last

    def restart_state(self) -> dict[str, Tensor]:
        """What the wrapped propagator needs."""
        return self.propagator.restart_state()

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave."""
        self.propagator.restore(saved)


class Checked(Recorded):
    """A guard whose every segment is checked; its fast propagator must be `Recorded`."""

    def __init__(
        self,
        guard: GuardedPropagator,
        potential: Potential,
        bond_lengths_A: Tensor,
        energy_limit_eV: float,
    ) -> None:
        """Wrap a guard.

        Args:
            guard: with proposals of one segment, never shortened.
            potential: for the energies.
            bond_lengths_A: `(n_bonds,)`, Å.
            energy_limit_eV: of the judge, which tells false alarms from others.
        """
        super().__init__(guard)
        self.guard, self.potential = guard, potential
        self.bond_lengths_A, self.energy_limit_eV = bond_lengths_A, energy_limit_eV
        self.result = TrialResult()

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the guard's segment, checked."""
        segment = super().advance(state, n_frames)
        began = time.process_time()
        self._check(state, segment)
        self.result.check_cpu_s += time.process_time() - began
        return segment

    def _check(self, state: State, segment: Segment) -> None:
        found = self.result
        network = segment.made_by == int(MadeBy.NETWORK)
        errors = energy_errors_of_frames(self.potential, state, segment)
        bonds = bond_deviations_A(segment, self.bond_lengths_A)
        failed = ~((errors <= FAILED_ENERGY_EV) & (bonds <= FAILED_BOND_A))
        found.undetected += int((failed & network).sum())
        found.frames["NETWORK"] += int(network.sum())
        found.frames["INTEGRATOR"] += int((segment.made_by == int(MadeBy.INTEGRATOR)).sum())
        if bool(network.any()):
            found.largest_energy_eV = max(found.largest_energy_eV, float(errors[network].max()))
            found.largest_bond_A = max(found.largest_bond_A, float(bonds[network].max()))
        found.proposals = self.guard.statistics().segments
        found.rejections.update(event.judge for event in segment.events)
        recorded = self.guard.fast
        if segment.events and isinstance(recorded, Recorded) and recorded.last is not None:
            rows = torch.tensor([event.replica for event in segment.events])
            proposal = _replicas(recorded.last, rows)
            true = energy_errors_of_frames(self.potential, state.replica(rows), proposal).amax(1)
            whole = bond_deviations_A(proposal, self.bond_lengths_A).amax(1) <= FAILED_BOND_A
            found.false_alarms += int(((true <= self.energy_limit_eV) & whole).sum())


def _replicas(segment: Segment, rows: Tensor) -> Segment:
    """Some replicas of a segment."""
    return Segment(
        segment.molecule,
        segment.times_fs,
        segment.positions[rows],
        segment.velocities[rows],
        segment.made_by[rows],
        cell=None if segment.cell is None else segment.cell[rows],
    )


def energy_errors_of_frames(potential: Potential, start: State, segment: Segment) -> Tensor:
    """Change of the total energy from the start to every frame.

    Args:
        potential: for the energy.
        start: where the segment starts.
        segment: any frames.

    Returns:
        `(n_replicas, n_frames)` eV, absolute; infinite where there is no energy.
    """
    n, f = segment.positions.shape[:2]
    before = total_energies(potential, start).repeat_interleave(f)
    x, v = segment.positions.flatten(0, 1), segment.velocities.flatten(0, 1)
    errors = torch.full((n * f,), torch.inf, dtype=torch.float64)
    finite = (torch.isfinite(x) & torch.isfinite(v)).flatten(1).all(1).nonzero()[:, 0]

    def energies(rows: Tensor) -> Tensor:
        k = finite[rows]
        return total_energies(potential, State(segment.molecule, x[k], v[k]))

    for rows, after in by_replicas(len(finite), energies):
        if isinstance(after, Tensor):
            k = finite[rows]
            errors[k] = (after - before[k]).abs().nan_to_num(nan=torch.inf)
    return errors.reshape(n, f)


def bond_deviations_A(segment: Segment, lengths_A: Tensor) -> Tensor:
    """Largest deviation of a bond in every frame, `(n_replicas, n_frames)`, Å, without a cell.

    Args:
        segment: any frames.
        lengths_A: `(n_bonds,)`, Å, in the order of `molecule.bonds`.
    """
    i, j = segment.molecule.bonds.T
    apart = (segment.positions[:, :, i] - segment.positions[:, :, j]).norm(dim=-1)
    deviations: Tensor = (apart.double() - lengths_A).abs().amax(-1)
    return deviations.nan_to_num(nan=torch.inf)


def run_trial(
    checked: Checked,
    start: State,
    n_frames: int,
    bath: tuple[float, float, torch.Generator],
) -> TrialResult:
    """Run a checked guard behind a bath.

    Args:
        checked: fresh.
        start: all replicas.
        n_frames: how many frames of each.
        bath: temperature, K, friction, 1/ps, and noise.

    Returns:
        What was found; a run whose safe propagator gives up ends early and says why.
    """
    scheme, state, left = Thermostatted(checked, *bath), start, n_frames
    began = time.process_time()
    while left > 0 and checked.result.stopped is None:
        try:
            segment = scheme.advance(state, min(left, checked.n_frames))
        except ValueError as error:
            checked.result.stopped = str(error)
            break
        left -= segment.n_frames
        state = segment.last
    checked.result.cpu_s = time.process_time() - began
    return checked.result
