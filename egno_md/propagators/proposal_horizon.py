"""How many frames a guard proposes at a time: fewer after a rejection, more after a good run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class ProposalHorizon:
    """Frames of the next proposal of every replica.

    A rejection halves them, not below one. `recover_after` accepted proposals in a row double
    them, not beyond a full proposal. Nothing is random, so the same verdicts give the same
    horizons.
    """

    def __init__(self, n_frames: int, recover_after: int | None = None) -> None:
        """Set the full horizon.

        Args:
            n_frames: frames of a full proposal.
            recover_after: accepted proposals before a shortened horizon is doubled; None: it is
                never shortened.

        Raises:
            ValueError: if a number is not positive.
        """
        for name, value in (("n_frames", n_frames), ("recover_after", recover_after)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.n_frames = n_frames
        self.recover_after = recover_after
        self.shortest = n_frames
        self._frames = torch.zeros(0, dtype=torch.int64)
        self._good = torch.zeros(0, dtype=torch.int64)

    def frames(self, n_replicas: int) -> Tensor:
        """Frames of the next proposals, `(n_replicas,)` int64.

        Args:
            n_replicas: of the run; with another number than before all start afresh.
        """
        if len(self._frames) != n_replicas:
            self._frames = torch.full((n_replicas,), self.n_frames)
            self._good = torch.zeros(n_replicas, dtype=torch.int64)
        return self._frames.clone()

    def note(self, which: Tensor, accepted: Tensor) -> None:
        """Learn how proposals went.

        Args:
            which: replicas that were judged, `(n,)` int64.
            accepted: whether all their frames were accepted, `(n,)` bool.
        """
        if self.recover_after is None:
            return
        frames, good = self._frames[which], self._good[which]
        good = torch.where(accepted, good + 1, 0)
        recovered = (good >= self.recover_after) & (frames < self.n_frames)
        frames = torch.where(recovered, (2 * frames).clamp(max=self.n_frames), frames)
        frames = torch.where(accepted, frames, (frames // 2).clamp(min=1))
        self._frames[which] = frames
        self._good[which] = torch.where(recovered, 0, good)
        self.shortest = min(self.shortest, int(frames.min()))

    def restart_state(self) -> dict[str, Tensor]:
        """Horizons, accepted proposals since the last change, and the shortest there was."""
        return {
            "frames": self._frames.clone(),
            "good": self._good.clone(),
            "shortest": torch.tensor(self.shortest),
        }

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave.

        Raises:
            ValueError: if something is missing or does not fit this horizon.
        """
        if {"frames", "good", "shortest"} - saved.keys():
            raise ValueError("the restart record has no horizons of proposals")
        frames = saved["frames"].to("cpu", torch.int64)
        if frames.shape != saved["good"].shape or bool((frames > self.n_frames).any()):
            raise ValueError(
                f"the restart record has horizons of {frames.tolist()} frames; a full proposal "
                f"has {self.n_frames}"
            )
        self._frames = frames.clone()
        self._good = saved["good"].to("cpu", torch.int64).clone()
        self.shortest = int(saved["shortest"])
