"""Reading eSCN checkpoints in the layout of the Open Catalyst project, without running them.

A `.pt` file is a pickle, and a pickle can run anything. Only tensors, numbers, texts and plain
containers of these are read (`weights_only=True`); whatever asks for more is refused.

| key | what |
|---|---|
| `state_dict` | weights under published names, perhaps after `module.`, once or more |
| `ema` | `shadow_params`: averaged weights, a list in the order of the trained ones |
| `config` | sizes: `model_attributes` beside `model`, or all in `model` |
| `normalizers` | mean and spread of energies and forces, under old or new names |
| `elementrefs` | energy per element, in newer files |
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from egno_md.data.escn_settings import normalisation, read_settings
from egno_md.models.escn_weights import complete_weights, plain_names, trained_elements

#: Largest file that is read, bytes.
LARGEST_BYTES: Final = 8 * 1024**3

EMAChoice = Literal["auto", "ignore", "apply"]

#: Weights that are constants: averages do not list them.
_NOT_TRAINED: Final = re.compile(r"sphere_points$|sphharm_weights\.|.*\.offset$|SO3_grid\.")


@dataclass(frozen=True, slots=True, eq=False)
class ESCNCheckpoint:
    """A checkpoint as our network needs it.

    Attributes:
        settings: arguments of `ESCN`.
        weights: its `state_dict`.
        record: what was done and found, for the card of a bundle.
    """

    settings: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    record: Mapping[str, str]


def read_checkpoint(
    path: str | Path,
    *,
    ema: EMAChoice = "auto",
    elements: Sequence[int] = (),
    unnormalised: bool = False,
) -> ESCNCheckpoint:
    """Read a checkpoint; nothing in it is run.

    Args:
        path: a `.pt` file.
        ema: averaged weights: take them if the file has them, leave them, or insist on them.
        elements: atomic numbers it was trained on; none: those whose weights have moved.
        unnormalised: take a file without normalisers to give eV and eV/Å as they are.

    Returns:
        Settings, weights and a record.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds anything but plain data, or something is missing or does not fit.
    """
    file = Path(path)
    content, sha256 = _load(file)
    try:
        weights = plain_names(_tensors(content, "state_dict"))
        weights, ema_note = _averaged(weights, content.get("ema"), ema)
        settings = read_settings(content.get("config"), weights)
        scales, scale_note = normalisation(content, settings["n_elements"], unnormalised)
        settings |= scales
        state = complete_weights(weights, settings)
        known, elements_note = _elements(weights, elements, settings["n_elements"])
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    record = {
        "converted from": file.name,
        "sha256 of that file": sha256,
        "averaged weights (EMA)": ema_note,
        "normalisers": scale_note,
        "elements": elements_note,
        "forces": "direct: not the gradient of the energy, so dynamics does not conserve energy",
        "edge frames": "deterministic, in training random",
    }
    return ESCNCheckpoint(settings | {"elements": known}, state, record)


def _load(file: Path) -> tuple[dict[str, Any], str]:
    """Content of the file as plain data, and its sha256."""
    if not file.is_file():
        what = "a folder, not a file" if file.is_dir() else "no such file"
        raise FileNotFoundError(f"{file}: {what}")
    if file.stat().st_size > LARGEST_BYTES:
        raise ValueError(f"{file}: at most {LARGEST_BYTES} bytes are read")
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(stream, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        # A damaged or hostile file can fail in any way.
        except Exception as error:
            raise ValueError(f"{file}: {_reason(error)}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{file}: a checkpoint is a dictionary, got {type(content).__name__}")
    return content, sha256


def _reason(error: Exception) -> str:
    """Why a file was not opened, in a line."""
    text = " ".join(str(error).split())
    found = re.search(r"GLOBAL ([\w.]+)", text)
    if found or "weights_only" in text.lower() or "unsupported" in text.lower():
        what = f"asks for {found[1]}" if found else "holds more than plain data"
        return (
            f"it {what}; only tensors, numbers, texts and containers of these are read, so it was "
            "refused and nothing in it has run. If you trust it, save its state_dict, ema, config "
            "and normalizers alone, as plain data, and convert that"
        )
    return f"not a readable checkpoint ({text[:200] or type(error).__name__})"


def _tensors(content: Mapping[str, Any], key: str) -> dict[str, Tensor]:
    value = content.get(key)
    if value is None:
        there = ", ".join(sorted(content)[:8]) or "nothing"
        raise ValueError(f"a checkpoint needs {key!r}; this one holds {there}")
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"{key!r} must map names to tensors, got {type(value).__name__}")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{key!r} must map names to tensors; {name!r} does not")
    return dict(value)


def _averaged(
    weights: dict[str, Tensor], ema: object, choice: EMAChoice
) -> tuple[dict[str, Tensor], str]:
    """Put averaged weights in the place of the last ones, if asked for."""
    held = ema if isinstance(ema, Mapping) else {}
    shadow = held.get("shadow_params")
    if not shadow:
        if choice == "apply":
            raise ValueError("ema is 'apply', but the file has no averaged weights")
        return weights, "none in the file: its weights are taken as they are"
    if choice == "ignore":
        return weights, "ignored: the last weights of the training are taken, not the averaged ones"
    names = [name for name in weights if not _NOT_TRAINED.match(name)]
    if not isinstance(shadow, list | tuple) or not all(isinstance(t, Tensor) for t in shadow):
        raise ValueError("ema: 'shadow_params' must be a list of tensors")
    if len(shadow) != len(names):
        raise ValueError(f"ema: {len(shadow)} averaged weights for {len(names)} trained ones")
    for name, tensor in zip(names, shadow, strict=True):
        if tensor.shape != weights[name].shape:
            raise ValueError(
                f"ema: the averaged weight in the place of {name!r} has shape "
                f"{tuple(tensor.shape)}, not {tuple(weights[name].shape)}"
            )
    note = f"applied ({choice}): {len(shadow)} averaged weights, decay {held.get('decay')}"
    return weights | dict(zip(names, shadow, strict=True)), note


def _elements(
    weights: Mapping[str, Tensor], given: Sequence[int], n_elements: int
) -> tuple[list[int], str]:
    """Atomic numbers the network knows, and how that is known."""
    if given:
        return sorted(set(given)), "as given by whoever converted it"
    found = trained_elements(weights)
    if found:
        return found, "those whose rows in the tables of elements have left their first range"
    return list(range(1, n_elements)), "all there is room for: none looks trained"
