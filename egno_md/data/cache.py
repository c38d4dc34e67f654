"""Keeps made data on disk, so that a training started again does not make it again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from egno_md.roles import Potential
from egno_md.state import State

Tensors = dict[str, Tensor]


def potential_fingerprint(potential: Potential, start: State) -> str:
    """Short hash of what a potential says near a state: another force field, another hash.

    The state is bent a little first: at a minimum all force fields agree that there is no force.

    Args:
        potential: the potential.
        start: the state it is asked about.
    """
    bend = 0.05 * torch.sin(torch.arange(start.positions.numel(), dtype=torch.float64))
    bent = start.positions + bend.view_as(start.positions).to(start.positions)
    answer = potential.evaluate(start.with_(positions=bent))
    digest = hashlib.sha256(type(potential).__name__.encode())
    # Rounded, so that the order of a sum (threads, batch) does not make another potential.
    for values, decimals in ((answer.energy, 5), (answer.forces, 4)):
        rounded = torch.round(values.to(torch.float64).cpu(), decimals=decimals) + 0.0
        digest.update(rounded.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash of a JSON-able description, the same for the same content."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def remember(
    folder: Path | None, kind: str, config: Mapping[str, Any], make: Callable[[], Tensors]
) -> Tensors:
    """Return the tensors made for a description: from disk when they are there.

    The file's name holds the hash of the description, so a changed description never finds
    stale data. It is written beside and renamed, so a kill leaves no half file.

    Args:
        folder: where to keep them; None keeps nothing.
        kind: first word of the file's name.
        config: JSON-able description of everything the tensors depend on.
        make: makes them.

    Raises:
        ValueError: if the file found cannot be read.
    """
    if folder is None:
        return make()
    path = Path(folder) / f"{kind}-{config_hash(config)}.safetensors"
    if path.exists():
        return read_tensors(path)[0]
    made = make()
    write_tensors(path, made, dict(config))
    return made


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Write tensors and a JSON note, beside and renamed.

    Args:
        path: the file.
        tensors: what to write.
        notes: JSON-able.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        flat = {name: values.detach().contiguous() for name, values in tensors.items()}
        save_file(flat, beside, metadata={"notes": json.dumps(dict(notes), sort_keys=True)})
        with beside.open("rb") as handle:
            os.fsync(handle.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Args:
        path: the file.

    Returns:
        The tensors and the note.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a complete safetensors file.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as handle:
            names = list(handle.keys())
            tensors = {name: handle.get_tensor(name) for name in names}
            notes = json.loads((handle.metadata() or {}).get("notes", "{}"))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and start again") from error
    return tensors, notes
