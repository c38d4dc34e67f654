"""Our row of the N-body table learns charges' motion, from its first times alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from egno_md.benchmarks.nbody import nbody_paths
from egno_md.benchmarks.nbody_variants import TEACHING_TIMES, AdaptivePaths
from egno_md.benchmarks.paper_training import seeded
from egno_md.benchmarks.paths import PathTask
from egno_md.data.nbody import simulate_nbody


def task() -> PathTask:
    """A small task of three charges."""
    sizes = {"training": 60, "validation": 20, "test": 20}
    splits = simulate_nbody(2, sizes=sizes, n_particles=3)
    return PathTask("nbody", *(nbody_paths(splits[name]) for name in sizes))


def test_it_learns_the_motion() -> None:
    made = task()
    model = seeded(AdaptivePaths, made, 1)
    assert isinstance(model, AdaptivePaths)
    batch = made.training.batch(torch.arange(60))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = model.path_loss(batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_the_loss_reads_the_first_targets_only() -> None:
    made = task()
    model = AdaptivePaths(made)
    batch = made.training.batch(torch.arange(5))
    late = batch.targets.clone()
    late[:, TEACHING_TIMES:] += 9.0
    early = batch.targets.clone()
    early[:, 0] += 9.0
    loss = model.path_loss(batch)
    assert model.path_loss(replace(batch, targets=late)) == loss
    assert model.path_loss(replace(batch, targets=early)) > loss


def test_graphs_of_their_own_are_refused() -> None:
    made = task()
    made.training.edges = [made.training.edges] * 60  # type: ignore[list-item]
    with pytest.raises(ValueError, match="one for all"):
        AdaptivePaths(made)
