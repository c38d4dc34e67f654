"""A trained network asked at other times than those it was trained with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from egno_md.benchmarks.nbody import nbody_paths
from egno_md.benchmarks.paper_training import PublishedEGNO
from egno_md.benchmarks.paths import PathBatch, Paths
from egno_md.data.nbody import FRAME_TIME, NBodyTrajectories
from egno_md.models.egno import EGNO


def dense_paths(trajectories: NBodyTrajectories, *, with_start: bool = False) -> Paths:
    """The N-body split at ten times instead of five.

    Args:
        trajectories: the split.
        with_start: ask at nearly 0, 0.1, ..., 0.9 instead of 0.1, ..., 1.0; the first time is
            1e-6 and its target free flight, as times of a task are positive.
    """
    plain = nbody_paths(trajectories)
    assert isinstance(plain.edges, Tensor)  # for the type checker: one graph for all
    times = FRAME_TIME * torch.arange(1.0, 11.0)
    targets = trajectories.positions[:, 1:]
    if with_start:
        times = torch.cat((torch.tensor([1e-6]), times[:-1]))
        near = plain.positions + times[0] * plain.velocities
        targets = torch.cat((near[:, None], targets[:, :-1]), 1)
    return Paths(
        plain.positions,
        plain.velocities,
        targets,
        times,
        plain.node_features,
        plain.edges,
        plain.edge_features,
    )


def published_at(
    model: nn.Module, times: Tensor, step: float, real: bool | None
) -> Callable[[PathBatch], Tensor]:
    """The network as a function of batches with other times.

    Args:
        model: a trained row. A `PublishedEGNO` gets as many time points as there are times,
            with its own weights; any other network takes the times from the batch.
        times: `(P,)` the times asked for.
        step: time between the points it was trained with; its index 0 is the first of them.
        real: whether the index becomes the real number `t / step - 1`, instead of 0, 1, 2, ...
            as published; None for networks that know times.
    """
    if not isinstance(model, PublishedEGNO):
        return lambda batch: cast(Tensor, model(batch))
    changed = copy.deepcopy(model)
    plan = model.egno.architecture() | {"num_timesteps": len(times)}
    changed.egno = EGNO.from_architecture(plan)
    changed.egno.load_state_dict(model.egno.state_dict())
    if real:
        table = embedding_at(times / step - 1.0, model.egno.time_emb_dim)
        changed.egno.time_features = table.to(changed.egno.time_features)
    return lambda batch: cast(Tensor, changed(batch))


def embedding_at(index: Tensor, width: int) -> Tensor:
    """The published time embedding at real numbers instead of indices.

    Args:
        index: `(P,)`.
        width: numbers per time point, even.

    Returns:
        `(P, width)`; at 0, 1, ... that of the published code.
    """
    half = width // 2  # as published, where the index is whole
    frequency = torch.exp(torch.arange(float(half)) * (-math.log(10000) / (half - 1)))
    angle = index[:, None].float() * frequency
    return torch.cat((torch.sin(angle), torch.cos(angle)), -1)
