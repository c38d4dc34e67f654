"""How far a network is from commuting with rotations, reflections, shifts and permutations."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Final, cast

import torch
from torch import Tensor, nn

from egno_md.benchmarks.paths import PathBatch, Paths

#: Samples that are measured.
COUNT: Final = 100


@torch.no_grad()
def symmetry_errors(model: nn.Module, paths: Paths, dtype: torch.dtype) -> dict[str, float]:
    """Measure the symmetries of a network that maps a `PathBatch` to positions.

    Args:
        model: the network; it is not changed.
        paths: samples, of which the first are taken; they share one graph.
        dtype: precision of the measurement.

    Returns:
        largest difference over the largest displacement for "rotation", "reflection", "shift"
        and "permutation", and for "centre", in units of length, the largest distance of the
        centre of mass (equal masses) from free flight.
    """
    network = copy.deepcopy(model).to(dtype).eval()
    batch = _cast(paths.batch(torch.arange(min(COUNT, len(paths)))), dtype)
    found = cast(Tensor, network(batch))
    scale = float((found - batch.positions[:, None]).abs().max())
    generator = torch.Generator().manual_seed(11)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    turn = turn * torch.sign(torch.linalg.det(turn))
    errors = {}
    for name, matrix in (("rotation", turn), ("reflection", -turn)):
        o = matrix.to(dtype)
        turned = replace(batch, positions=batch.positions @ o, velocities=batch.velocities @ o)
        errors[name] = float((network(turned) - found @ o).abs().max()) / scale
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=dtype)
    shifted = network(replace(batch, positions=batch.positions + shift))
    errors["shift"] = float((shifted - found - shift).abs().max()) / scale
    order = torch.arange(paths.n_nodes).roll(1)  # no node keeps its place
    permuted = network(_permuted(batch, order))
    errors["permutation"] = float((permuted - found[:, :, order]).abs().max()) / scale
    free = batch.positions[:, None] + batch.times[:, None, None] * batch.velocities[:, None]
    errors["centre"] = float((found - free).mean(2).norm(dim=-1).max())
    return errors


def _cast(batch: PathBatch, dtype: torch.dtype) -> PathBatch:
    """The batch in another precision."""
    return replace(
        batch,
        positions=batch.positions.to(dtype),
        velocities=batch.velocities.to(dtype),
        times=batch.times.to(dtype),
        node_features=batch.node_features.to(dtype),
        edge_features=batch.edge_features.to(dtype),
    )


def _permuted(batch: PathBatch, order: Tensor) -> PathBatch:
    """The batch with its nodes in another order, on the same complete graph.

    Edges keep their places, since networks know the graph; their features move.
    """
    if batch.edges is None:
        raise ValueError("permutations are measured on a graph that all samples share")
    nodes = batch.positions.shape[1]
    place = torch.full((nodes, nodes), -1)
    place[batch.edges[0], batch.edges[1]] = torch.arange(batch.edges.shape[1])
    source = place[order[batch.edges[0]], order[batch.edges[1]]]
    if bool((source < 0).any()):
        raise ValueError("permutations are measured on a complete graph")
    features = batch.edge_features.view(batch.positions.shape[0], len(source), -1)
    return replace(
        batch,
        positions=batch.positions[:, order],
        velocities=batch.velocities[:, order],
        node_features=batch.node_features[:, order],
        edge_features=features[:, source].flatten(0, 1),
    )
