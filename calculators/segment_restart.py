"""A record on disk from which a segment driver goes on as if it had not stopped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

#: Written into every record; a reader refuses others.
_VERSION = 1


def write_record(path: str | Path, record: Mapping[str, Tensor]) -> None:
    """Write tensors to a file, whole or not at all.

    Args:
        path: file, replaced if it is there.
        record: tensors by name.
    """
    from safetensors.torch import save

    target = Path(path)
    there = target.with_name(f".{target.name}.new")
    # Written to the end before it takes the name of the old one.
    with there.open("wb") as file:
        # Copies: safetensors refuses tensors that share memory, as remembered positions may.
        content = {k: v.detach().cpu().contiguous().clone() for k, v in record.items()}
        file.write(save(content, metadata={"egno_md_segment_restart": str(_VERSION)}))
        file.flush()
        os.fsync(file.fileno())
    there.replace(target)


def read_record(path: str | Path) -> dict[str, Tensor]:
    """Read what `write_record` wrote.

    Args:
        path: file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such record, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"restart file {file} does not exist")
    try:
        with safe_open(str(file), framework="pt") as opened:
            version = (opened.metadata() or {}).get("egno_md_segment_restart")
            if version != str(_VERSION):
                raise ValueError(
                    f"restart file {file} is no record of a segment driver of version {_VERSION}"
                )
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"restart file {file} cannot be read: {error}") from None


def checked_record(record: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    """Refuse a record of another system.

    Args:
        record: what was read.
        like: the record of the system at hand.

    Raises:
        ValueError: naming what is missing or differs.
    """
    for name, here in like.items():
        if "." in name:
            continue
        if name not in record or record[name].shape != here.shape:
            given = tuple(record[name].shape) if name in record else "missing"
            raise ValueError(
                f"the restart record is of another system: its {name} are {given}, "
                f"{tuple(here.shape)} is needed"
            )
        if name in ("numbers", "bonds", "held") and not torch.equal(record[name], here):
            raise ValueError(
                f"the restart record is of another system: its {name} are "
                f"{record[name].tolist()}, not {here.tolist()}"
            )
        if name in ("positions", "velocities") and not bool(torch.isfinite(record[name]).all()):
            raise ValueError(f"the restart record has {name} that are not finite")
