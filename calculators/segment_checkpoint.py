"""Checkpoints of segment simulations: OpenMM's, and beside it the frames not yet shown.

A zip archive of `about.json`, `context.chk` (as OpenMM made it) and `tensors.npz` (nothing
pickled). The archive's checksums tell a damaged file.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

#: Changes: 1, the first.
FORMAT: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class SegmentCheckpoint:
    """What a segment simulation goes on from.

    Attributes:
        context: checkpoint of the context, as OpenMM made it.
        about: plain values, see `SegmentSimulation`.
        tensors: restart state of the propagator and frames of an unfinished segment.
    """

    context: bytes
    about: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def to_bytes(self) -> bytes:
        """Return the archive."""
        arrays = io.BytesIO()
        named: dict[str, Any] = {name: t.detach().cpu().numpy() for name, t in self.tensors.items()}
        np.savez(arrays, **named)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("about.json", json.dumps({"format": FORMAT, **self.about}))
            archive.writestr("context.chk", self.context)
            archive.writestr("tensors.npz", arrays.getvalue())
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> SegmentCheckpoint:
        """Read an archive.

        Args:
            data: what `to_bytes` gave.

        Raises:
            ValueError: if it is damaged, of a newer format, or a checkpoint of another kind.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                about = json.loads(archive.read("about.json"))
                context = archive.read("context.chk")
                with np.load(io.BytesIO(archive.read("tensors.npz")), allow_pickle=False) as found:
                    tensors = {name: torch.from_numpy(found[name]) for name in found.files}
            version = int(about["format"])
        except (zipfile.BadZipFile, KeyError, ValueError, TypeError, OSError, EOFError) as error:
            raise ValueError(
                f"this is no whole checkpoint of a SegmentSimulation ({error}); checkpoints of "
                "an ordinary Simulation cannot be loaded, states saved with saveState can"
            ) from error
        if version > FORMAT:
            raise ValueError(f"the checkpoint has format {version}; this version reads {FORMAT}")
        return cls(context, about, tensors)


def write_whole(data: bytes, file: str | Path) -> None:
    """Write a file so that a crash leaves the old one or the new one.

    Args:
        data: its content.
        file: where; what is there is replaced at the end.
    """
    target = Path(file)
    fresh = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with fresh.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
