"""Checkpoints of a fit: everything the next step depends on, in one safetensors file.

Weights, averaged weights and the optimiser's moments are tensors; the step, the best score
and the times are JSON in the file's header. The file is written beside and renamed, so there
is always one whole checkpoint. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from egno_md.data.cache import read_tensors, write_tensors
from egno_md.training.averaging import WeightAverage

_MODEL, _AVERAGE, _OPTIMIZER = "model/", "average/", "optimizer/"


def save_checkpoint(
    path: Path,
    model: nn.Module,
    average: WeightAverage,
    optimizer: torch.optim.Optimizer,
    notes: Mapping[str, Any],
) -> None:
    """Write a checkpoint.

    Args:
        path: the file.
        model: the model being fitted.
        average: the average of its weights.
        optimizer: its optimiser.
        notes: JSON-able numbers of the fit.
    """
    tensors = {_MODEL + k: v for k, v in model.state_dict().items()}
    tensors |= {_AVERAGE + k: v for k, v in average.model.state_dict().items()}
    for name, weight in model.named_parameters():
        for key, value in optimizer.state.get(weight, {}).items():
            tensors[f"{_OPTIMIZER}{name}/{key}"] = value
    copies = {name: values.detach().cpu().clone() for name, values in tensors.items()}
    write_tensors(path, copies, {**notes, "n_updates": average.n_updates})


def load_checkpoint(
    path: Path, model: nn.Module, average: WeightAverage, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put a checkpoint back; the next step is then bit for bit the one that would have been.

    Args:
        path: the file.
        model: takes the weights.
        average: takes the averaged weights.
        optimizer: takes the moments.

    Returns:
        The notes.

    Raises:
        ValueError: if the file is damaged or belongs to another model.
    """
    tensors, notes = read_tensors(path)
    _load(path, model, _under(tensors, _MODEL))
    _load(path, average.model, _under(tensors, _AVERAGE))
    average.n_updates = int(notes["n_updates"])
    moments = _under(tensors, _OPTIMIZER)
    for name, weight in model.named_parameters():
        mine = {k[len(name) + 1 :]: v for k, v in moments.items() if k.startswith(name + "/")}
        if mine:
            # The step counter stays where the optimiser keeps it, on the CPU.
            optimizer.state[weight] = {
                k: v if k == "step" else v.to(weight.device) for k, v in mine.items()
            }
    return notes


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _load(path: Path, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        first = str(error).splitlines()
        raise ValueError(
            f"{path} belongs to another model ({' '.join(first[:2]).strip()}); "
            "use the same architecture or another folder"
        ) from error
