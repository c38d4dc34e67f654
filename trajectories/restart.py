"""The state a run goes on from, in one file: full precision, checked, never unpickled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor

from egno_md.state import Molecule, State
from egno_md.trajectories.store_format import StoreDamagedError

_STATE = "state."
_PROPAGATOR = "propagator."


@dataclass(frozen=True, slots=True, eq=False)
class Restart:
    """Everything the next segment depends on.

    Attributes:
        state: the last state, in the precision it was computed with.
        propagator: what `Propagator.restart_state` gave then; generator states among it.
    """

    state: State
    propagator: Mapping[str, Tensor]

    @classmethod
    def snapshot(cls, state: State, propagator: Mapping[str, Tensor]) -> Restart:
        """Keep copies, so that work in place by the propagator cannot reach them."""
        return cls(state, {k: v.detach().cpu().clone() for k, v in propagator.items()})


def to_bytes(restart: Restart) -> bytes:
    """Return a restart as the content of a safetensors file."""
    state = restart.state
    tensors = {
        f"{_STATE}positions": state.positions,
        f"{_STATE}velocities": state.velocities,
    }
    if state.cell is not None:
        tensors[f"{_STATE}cell"] = state.cell
    tensors |= {f"{_PROPAGATOR}{k}": v for k, v in restart.propagator.items()}
    # Hexadecimal text keeps the time bit for bit; copies because storage must not be shared.
    return safetensors.torch.save(
        {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
        metadata={"time_fs": float(state.time_fs).hex()},
    )


def read(path: Path, sha256: str, molecule: Molecule) -> Restart:
    """Read a restart file.

    Args:
        path: the file.
        sha256: what its content must hash to.
        molecule: the fixed part of the state.

    Raises:
        StoreDamagedError: if the file is missing or is not what was written.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise StoreDamagedError(f"{path} is missing: the run cannot be continued") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise StoreDamagedError(
            f"{path} is damaged: its checksum does not match, so the run cannot be continued "
            "(the frames can still be read)"
        )
    tensors = tensors_from_bytes(content)
    with safetensors.safe_open(path, framework="pt") as file:
        time_fs = float.fromhex(file.metadata()["time_fs"])
    state = State(
        molecule,
        tensors[f"{_STATE}positions"],
        tensors[f"{_STATE}velocities"],
        time_fs,
        tensors.get(f"{_STATE}cell"),
    )
    kept = {k.removeprefix(_PROPAGATOR): v for k, v in tensors.items() if k.startswith(_PROPAGATOR)}
    return Restart(state, kept)
