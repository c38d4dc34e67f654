"""Steps of a simulation taken from segments: one step is one frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import openmm
import torch
from openmm import unit
from torch import Tensor

from egno_md.calculators.context_frames import ContextFrames, Snapshot
from egno_md.calculators.openmm_baths import Baths
from egno_md.propagators.guarded import finite_frames
from egno_md.propagators.restart import named_under, taken_from
from egno_md.roles import Propagator
from egno_md.segment import Event, MadeBy, Segment
from egno_md.units import PS_PER_FS


@dataclass(slots=True)
class _Pending:
    """A segment of which the first `shown` frames were shown.

    Attributes:
        positions: `(n_frames, n_atoms, 3)`, Å.
        velocities: same shape, Å/fs.
        made_by: `(n_frames,)`, values of `MadeBy`.
        shown: how many frames were passed.
    """

    positions: Tensor
    velocities: Tensor
    made_by: Tensor
    shown: int = 0

    @property
    def left(self) -> int:
        """Frames not passed yet."""
        return len(self.positions) - self.shown


class SegmentSteps:
    """What stands in the place of a simulation's integrator.

    A segment is made whole when its first frame is needed, and what is left of it is kept: how
    the steps are split into calls changes nothing. Only the last frame of a call is put into
    the context. What someone else changed in the context since the last call is noticed, and
    the rest of the segment is thrown away.
    """

    def __init__(
        self,
        frames: ContextFrames,
        propagator: Propagator,
        baths: Baths,
        on_events: Callable[[Sequence[Event]], None],
    ) -> None:
        """Put the parts together.

        Args:
            frames: of the context.
            propagator: makes the segments.
            baths: act before every segment.
            on_events: is told what a guard did.
        """
        self.frames = frames
        self.propagator = propagator
        self._baths = baths
        self._on_events = on_events
        self._interval_ps = propagator.frame_interval_fs * PS_PER_FS
        self._pending: _Pending | None = None
        self._left_behind: Snapshot | None = None
        self._counters = (0.0, 0)
        self._anchor = (0.0, 0)
        self.made_by = MadeBy.GIVEN

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Everything else is asked of the context's integrator."""
        if name.startswith("_") or name == "frames":
            raise AttributeError(name)
        return getattr(self.frames.context.getIntegrator(), name)

    def getStepSize(self) -> unit.Quantity:
        """Time between frames."""
        return self._interval_ps * unit.picosecond

    def setStepSize(self, size: object) -> None:
        """Refuse.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"the step cannot be set to {size}: frames are {self.propagator.frame_interval_fs:g} "
            "fs apart, as the propagator makes them"
        )

    def step(self, steps: int) -> None:
        """Go on by some frames.

        Args:
            steps: how many.

        Raises:
            ValueError: if a segment cannot be made; the context stays at the last good frame.
        """
        if steps < 1:
            return
        self._notice_changes()
        while steps > 0:
            if self._pending is None:
                self._pending = self._next_segment()
            go = min(steps, self._pending.left)
            self._pass(self._pending, go)
            steps -= go

    def forget(self) -> None:
        """Throw away what is left of a segment: the next step makes a new one."""
        self._pending = None
        self._left_behind = None

    def restart_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What goes on from here besides the context: plain values, and tensors."""
        self._notice_changes()
        about = {
            "frame_interval_fs": self.propagator.frame_interval_fs,
            "n_frames": self.propagator.n_frames,
            "n_atoms": self.frames.molecule.n_atoms,
            "shown": None if self._pending is None else self._pending.shown,
            "anchor": list(self._anchor),
            "made_by": int(self.made_by),
        }
        tensors = named_under("propagator", self.propagator.restart_state())
        if self._pending is not None:
            tensors |= {
                "pending.positions": self._pending.positions,
                "pending.velocities": self._pending.velocities,
                "pending.made_by": self._pending.made_by,
            }
        return about, tensors

    def check(self, about: Mapping[str, Any]) -> None:
        """Refuse the record of another simulation.

        Args:
            about: the plain values that `restart_state` gave.

        Raises:
            ValueError: naming what differs.
        """
        expected = {
            "frame_interval_fs": self.propagator.frame_interval_fs,
            "n_frames": self.propagator.n_frames,
            "n_atoms": self.frames.molecule.n_atoms,
        }
        for name, value in expected.items():
            if about.get(name) != value:
                raise ValueError(
                    f"the checkpoint is of a simulation with {name} = {about.get(name)}; "
                    f"this one has {value}"
                )

    def restore(
        self, context: bytes, about: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        """Go on from what `restart_state` gave.

        Args:
            context: checkpoint of the context.
            about: plain values.
            tensors: tensors.

        Raises:
            ValueError: if the context or the propagator does not take it; nothing changes then.
        """
        before = self.propagator.restart_state()
        try:
            self.propagator.restore(taken_from("propagator", tensors))
            self.frames.context.loadCheckpoint(context)
        except (ValueError, openmm.OpenMMException) as error:
            self.propagator.restore(before)
            raise ValueError(
                f"the checkpoint does not fit this simulation ({error}); it must be of the same "
                "system, platform and guard"
            ) from error
        saved = taken_from("pending", tensors)
        self._pending = None
        if about["shown"] is not None:
            self._pending = _Pending(
                saved["positions"], saved["velocities"], saved["made_by"], int(about["shown"])
            )
        self._anchor = (float(about["anchor"][0]), int(about["anchor"][1]))
        self.made_by = MadeBy(int(about["made_by"]))
        self._left_behind = self.frames.snapshot()
        self._counters = self._read_counters()

    def _read_counters(self) -> tuple[float, int]:
        context = self.frames.context
        return context.getTime()._value, int(context.getStepCount())

    def _notice_changes(self) -> None:
        """Heed what was done to the context since the last call."""
        counters = self._read_counters()
        if counters != self._counters:
            self._anchor = self._counters = counters
        here = self.frames.snapshot()
        if self._left_behind is None or not here.same_as(self._left_behind):
            self._pending = None
            self._left_behind = here
            self.made_by = MadeBy.GIVEN

    def _next_segment(self) -> _Pending:
        """Let the baths act and make a segment, or leave the context as it was."""
        assert self._left_behind is not None
        before, (time_ps, count) = self._left_behind, self._counters
        try:
            self._baths.act(self.frames.context, count, self.propagator.n_frames)
            start = self.frames.read(time_ps / PS_PER_FS)
            segment = self.propagator.advance(start)
            _refuse_not_finite(segment)
            self.frames.check_frozen(start, segment.positions)
        except BaseException:
            self.frames.restore(before)
            raise
        finally:
            self._set_counters(time_ps, count)
        self._on_events(segment.events)
        return _Pending(
            segment.positions[0].cpu(), segment.velocities[0].cpu(), segment.made_by[0].cpu()
        )

    def _pass(self, pending: _Pending, n_frames: int) -> None:
        """Go some frames on in a segment and put that frame into the context."""
        k = pending.shown + n_frames - 1
        self.frames.put(pending.positions[k], pending.velocities[k])
        pending.shown = k + 1
        self.made_by = MadeBy(int(pending.made_by[k]))
        count = self._counters[1] + n_frames
        # From the anchor, not from the last time: sums of steps would drift.
        time_ps = self._anchor[0] + (count - self._anchor[1]) * self._interval_ps
        self._set_counters(time_ps, count)
        self._left_behind = self.frames.snapshot()
        if pending.left == 0:
            self._pending = None

    def _set_counters(self, time_ps: float, count: int) -> None:
        self.frames.context.setTime(time_ps)
        self.frames.context.setStepCount(count)
        self._counters = (time_ps, count)


def _refuse_not_finite(segment: Segment) -> None:
    """Refuse a segment that no guard made good.

    Raises:
        ValueError: naming time and atom.
    """
    if bool(finite_frames(segment).all()):
        return
    good = torch.isfinite(segment.positions) & torch.isfinite(segment.velocities)
    _, k, i, _ = (int(j) for j in (~good).nonzero()[0])
    raise ValueError(
        f"the propagator gives atom {i} a position or velocity that is not finite at "
        f"{float(segment.times_fs[k]):g} fs; give a fallback integrator to go on from there"
    )
