"""The judge that asks a potential: the total energy must not change over a segment."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from egno_md.propagators.by_replicas import by_replicas
from egno_md.propagators.guarded import finite_frames, leading
from egno_md.roles import Potential, Verdict
from egno_md.segment import Segment
from egno_md.state import State, kinetic_energy


class EnergyJudge:
    """Accepts frames whose total energy by a potential is that of the start, within a limit.

    Only the last frame is evaluated as long as it passes; for a replica that fails all its
    frames are, in one batch, and the leading good ones are kept. The energy at the end of a
    segment is remembered for the next that starts from the same positions. Kicks of a bath
    between segments are not seen. A potential that refuses a geometry rejects it.
    """

    name = "energy error"

    def __init__(self, potential: Potential, limit_eV: float, every: int = 1) -> None:
        """Set the limit.

        Args:
            potential: the one to trust.
            limit_eV: largest change of the total energy over a segment, either way.
            every: look at one segment of this many and let the others pass.

        Raises:
            ValueError: if a number is not positive.
        """
        if not 0.0 < limit_eV < float("inf"):
            raise ValueError(f"limit_eV is {limit_eV}; it must be a positive number of eV")
        if every < 1:
            raise ValueError(f"every is {every}; it must be at least 1")
        self.potential = potential
        self.limit_eV = limit_eV
        self.every = every
        self._calls = 0
        self._known: tuple[Tensor, Tensor] | None = None

    def judge(self, start: State, segment: Segment) -> Verdict:
        """Compare the total energy at the end, and where needed before, with the start's."""
        n, frames = segment.n_replicas, segment.n_frames
        self._calls += 1
        if (self._calls - 1) % self.every:
            return Verdict(torch.full((n,), frames), (None,) * n)
        potential = torch.full((n, frames), float("nan"), dtype=torch.float64)
        problems: dict[tuple[int, int], str] = {}
        before, start_problems = self._start_energy(start)
        finite = finite_frames(segment).cpu()
        total = kinetic_energy(segment.molecule, segment.velocities).cpu()

        def look(rows: Tensor, columns: Tensor) -> None:
            found, why = self._energies(segment, rows, columns)
            potential[rows, columns] = found
            problems.update(why)

        whole = finite[:, -1] & torch.isfinite(before)
        rows = whole.nonzero()[:, 0]
        look(rows, torch.full_like(rows, frames - 1))
        change = potential + total - before[:, None]
        passed = change[:, -1].abs() <= self.limit_eV
        suspects = finite & (~passed & torch.isfinite(before))[:, None]
        suspects[:, -1] = False
        look(*suspects.nonzero().T)
        change = potential + total - before[:, None]
        accepted = (change.abs() <= self.limit_eV) | passed[:, None]
        n_accepted = leading(accepted)
        reasons = tuple(
            None
            if k == frames
            else start_problems.get(r)
            or problems.get((r, k))
            or self._reason(start, segment, k, float(change[r, k]), bool(finite[r, k]))
            for r, k in enumerate(n_accepted.tolist())
        )
        self._known = (segment.positions[:, -1].clone(), potential[:, -1].clone())
        return Verdict(n_accepted, reasons, potential)

    def restart_state(self) -> dict[str, Tensor]:
        """The remembered energies, their positions, and the count of calls."""
        saved = {"calls": torch.tensor(self._calls)}
        if self._known is not None:
            saved |= {"positions": self._known[0], "energies": self._known[1]}
        return saved

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave."""
        self._calls = int(saved["calls"])
        known = "positions" in saved and "energies" in saved
        self._known = (saved["positions"], saved["energies"]) if known else None

    def _reason(
        self, start: State, segment: Segment, frame: int, change_eV: float, finite: bool
    ) -> str:
        if not finite:
            return "positions or velocities are not finite, so there is no total energy"
        span_fs = float(segment.times_fs[frame]) - start.time_fs
        return (
            f"total energy changes by {change_eV:.3g} eV in {span_fs:g} fs; "
            f"allowed {self.limit_eV:g} eV"
        )

    def _start_energy(self, start: State) -> tuple[Tensor, dict[int, str]]:
        """Total energy at the start `(n_replicas,)` eV, and why where it is NaN."""
        n = start.n_replicas
        energy = torch.full((n,), float("nan"), dtype=torch.float64)
        if self._known is not None and self._known[0].shape == start.positions.shape:
            x, known = self._known
            same = (x.to(start.positions) == start.positions).flatten(1).all(1).cpu()
            energy[same] = known[same]
        missing = energy.isnan().nonzero()[:, 0]
        here = Segment(
            start.molecule,
            torch.tensor([start.time_fs]),
            start.positions[:, None],
            start.velocities[:, None],
            torch.zeros((n, 1), dtype=torch.int8),
            cell=start.cell,
        )
        found, why = self._energies(here, missing, torch.zeros_like(missing))
        energy[missing] = found
        problems = {r: f"at the start of the segment: {text}" for (r, _), text in why.items()}
        return energy + kinetic_energy(start.molecule, start.velocities).cpu(), problems

    def _energies(
        self, segment: Segment, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, dict[tuple[int, int], str]]:
        """Potential energies of some frames in one batch, and why where they are NaN.

        Of a batch that the potential refuses, the frames to blame are found.
        """
        found = torch.full((len(rows),), float("nan"), dtype=torch.float64)
        problems: dict[tuple[int, int], str] = {}

        def energies(block: Tensor) -> Tensor:
            r, f = rows[block], columns[block]
            state = State(
                segment.molecule,
                segment.positions[r, f],
                torch.zeros_like(segment.positions[r, f]),
                float(segment.times_fs[f[0]]),
                None if segment.cell is None else segment.cell[r],
            )
            return self.potential.energies(state).detach().to("cpu", torch.float64)

        for block, done in by_replicas(len(rows), energies):
            if isinstance(done, ValueError):
                frame = int(rows[block[0]]), int(columns[block[0]])
                problems[frame] = f"the guard potential refuses: {done}"
                continue
            found[block] = done
            for k in block[~torch.isfinite(found[block])].tolist():
                problems[int(rows[k]), int(columns[k])] = (
                    f"the guard potential gives an energy of {float(found[k])} eV"
                )
                found[k] = float("nan")
        return found, problems
