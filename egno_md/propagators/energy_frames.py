"""Which frames of a proposal a guard asks the energy of: the last, all, or as experience says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

import torch
from torch import Tensor

#: What may be asked for.
EnergyFrames = Literal["last", "all", "auto"]

#: How many verdicts "auto" looks back on, and so many come first with every frame.
REMEMBERED: Final = 64

#: A larger share of rejections among these, and every frame is asked for.
TOLERATED: Final = 0.05


class Watchfulness:
    """Says whether every frame is asked for, or the last alone unless it fails.

    "auto" starts with every frame. Once `REMEMBERED` proposals of all replicas together have been
    judged it is content with the last of each, as long as at most `TOLERATED` of the latest so
    many were rejected: a network that is often caught is likely to have slipped through, too.
    Nothing is random, so the same verdicts lead to the same questions.
    """

    def __init__(self, frames: EnergyFrames) -> None:
        """Set the rule.

        Args:
            frames: "last", "all" or "auto".

        Raises:
            ValueError: if it is none of these.
        """
        if frames not in get_args(EnergyFrames):
            raise ValueError(
                f"frames is {frames!r}; allowed are {', '.join(map(repr, get_args(EnergyFrames)))}"
            )
        self.frames = frames
        self._accepted = torch.zeros(0, dtype=torch.bool)

    @property
    def every_frame(self) -> bool:
        """Whether every frame of the next proposals is asked for."""
        if self.frames != "auto":
            return self.frames == "all"
        rejected = int((~self._accepted).sum())
        return len(self._accepted) < REMEMBERED or rejected > TOLERATED * REMEMBERED

    def note(self, accepted: Tensor) -> None:
        """Learn how proposals went.

        Args:
            accepted: whether all frames of each were accepted, `(n,)` bool.
        """
        if self.frames == "auto":
            self._accepted = torch.cat([self._accepted, accepted.cpu()])[-REMEMBERED:]

    def restart_state(self) -> dict[str, Tensor]:
        """The latest verdicts."""
        return {"verdicts": self._accepted.clone()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave; only "auto" needs it.

        Raises:
            ValueError: if it is needed and missing, or not a list of verdicts.
        """
        if self.frames != "auto":
            return
        verdicts = saved.get("verdicts")
        if verdicts is None or verdicts.ndim != 1 or len(verdicts) > REMEMBERED:
            given = "missing" if verdicts is None else f"of shape {tuple(verdicts.shape)}"
            raise ValueError(
                f"the restart record's verdicts of an energy judge are {given}; it keeps up to "
                f"{REMEMBERED}"
            )
        self._accepted = verdicts.to("cpu", torch.bool).clone()
