"""The loop that every classical propagator shares: half kick, drift, half kick, over frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from egno_md.roles import EnergyForces, Potential, refuse_no_potential
from egno_md.segment import MadeBy, Segment
from egno_md.state import State
from egno_md.units import ACCELERATION_PER_FORCE

#: Moves positions and velocities between two half kicks.
Drift = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class KickDriftKick:
    """Integrates the equations of motion on a grid of frames and remembers the last forces.

    The forces at the last frame are those that the next segment needs first. They are used
    again when that segment starts from the very same positions, bit for bit.
    """

    def __init__(
        self, potential: Potential, timestep_fs: float, frame_interval_fs: float, n_frames: int
    ) -> None:
        """Check the grid.

        Args:
            potential: gives the forces.
            timestep_fs: integration step.
            frame_interval_fs: time between frames, a multiple of the step.
            n_frames: frames of a full segment.

        Raises:
            ValueError: if the potential is none, a number is not positive or the interval is not
                a multiple.
        """
        refuse_no_potential("potential", potential)
        for name, value in (("timestep_fs", timestep_fs), ("frame_interval_fs", frame_interval_fs)):
            if not 0.0 < value < float("inf"):
                raise ValueError(f"{name} is {value}; it must be a positive number of fs")
        ratio = frame_interval_fs / timestep_fs
        steps = round(ratio)
        if steps < 1 or abs(ratio - steps) > 1e-6 * ratio:
            raise ValueError(
                f"frame_interval_fs {frame_interval_fs} is not a multiple of "
                f"timestep_fs {timestep_fs}; choose, for example, "
                f"timestep_fs {frame_interval_fs / max(1, steps):g}"
            )
        if n_frames < 1:
            raise ValueError(f"n_frames is {n_frames}; a segment has at least one frame")
        self.potential = potential
        self.frame_interval_fs = frame_interval_fs
        self.n_frames = n_frames
        self.steps_per_frame = steps
        # Whole steps fill the interval exactly, whatever the rounding of the given step.
        self.timestep_fs = frame_interval_fs / steps
        self._known: dict[str, Tensor] = {}

    def advance(self, state: State, n_frames: int | None, drift: Drift) -> Segment:
        """Return the segment that follows `state`.

        Args:
            state: where to start.
            n_frames: how many frames; a full segment when None.
            drift: moves positions `(n_replicas, n_atoms, 3)` Å and velocities Å/fs over one
                whole step.

        Raises:
            ValueError: if no frames are asked for, or naming replica, atom and time where
                something is not finite or the potential gives up.
        """
        count = self.n_frames if n_frames is None else n_frames
        if count < 1:
            raise ValueError(f"n_frames is {count}; ask for at least one frame")
        x, v = state.positions, state.velocities
        per_force = ACCELERATION_PER_FORCE / state.molecule.masses.to(x)[:, None]
        half_kick = 0.5 * self.timestep_fs * per_force
        forces = self._first_forces(state)
        frames_x, frames_v, energies = [], [], []
        for frame in range(count):
            for step in range(self.steps_per_frame):
                v = v + half_kick * forces
                x, v = drift(x, v)
                done = frame * self.steps_per_frame + step + 1
                result = self._evaluate(state, x, v, state.time_fs + done * self.timestep_fs)
                forces = result.forces
                v = v + half_kick * forces
            frames_x.append(x)
            frames_v.append(v)
            energies.append(result.energy)
        self._remember(x, forces, state.cell)
        after = torch.arange(1, count + 1, dtype=torch.float64)
        made_by = torch.full((state.n_replicas, count), int(MadeBy.INTEGRATOR), dtype=torch.int8)
        return Segment(
            state.molecule,
            state.time_fs + after * self.frame_interval_fs,
            torch.stack(frames_x, 1),
            torch.stack(frames_v, 1),
            made_by,
            torch.stack(energies, 1),
            state.cell,
        )

    def restart_state(self) -> dict[str, Tensor]:
        """The remembered forces and the positions and cell they belong to."""
        return dict(self._known)

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave."""
        self._known = {k: saved[k] for k in ("positions", "forces", "cell") if k in saved}

    def _remember(self, positions: Tensor, forces: Tensor, cell: Tensor | None) -> None:
        self._known = {"positions": positions, "forces": forces}
        if cell is not None:
            self._known["cell"] = cell

    def _first_forces(self, state: State) -> Tensor:
        """Forces at the start: the remembered ones if nothing moved since."""
        known = self._known
        here = {"positions": state.positions}
        if state.cell is not None:
            here["cell"] = state.cell
        if known and known.keys() - {"forces"} == here.keys():
            same = all(_same_bits(known[key], value) for key, value in here.items())
            if same:
                return known["forces"]
        return self._evaluate(state, state.positions, state.velocities, state.time_fs).forces

    def _evaluate(self, state: State, x: Tensor, v: Tensor, time_fs: float) -> EnergyForces:
        """Evaluate the potential, or say where and when that failed."""
        try:
            now = state.with_(positions=x, velocities=v, time_fs=time_fs)
            result = self.potential.evaluate(now)
        except ValueError as error:
            raise ValueError(
                f"integration in steps of {self.timestep_fs:g} fs failed at {time_fs:g} fs: {error}"
            ) from error
        if not bool(torch.isfinite(result.forces).all()):
            r, i, _ = (int(k) for k in (~torch.isfinite(result.forces)).nonzero()[0])
            raise ValueError(
                f"integration in steps of {self.timestep_fs:g} fs failed at {time_fs:g} fs: "
                f"the force on atom {i} of replica {r} is {result.forces[r, i].tolist()} eV/Å"
            )
        return result


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
