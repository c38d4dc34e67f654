"""Bundles of the potentials that `egno-md benchmark potentials` trains, ready to run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from egno_md.benchmarks.potential_data import PotentialTask
from egno_md.bundle import BundleCard, package_versions, save_bundle
from egno_md.models.escn_md import ESCNMD
from egno_md.training.sources import names_only

if TYPE_CHECKING:
    from egno_md.benchmarks.potential_rows import PotentialResult


def save_potential(
    task: PotentialTask, model: ESCNMD, result: PotentialResult, path: Path, command: str, seed: int
) -> Path:
    """Write a trained potential as a bundle.

    Args:
        task: the data set.
        model: with the weights that were tested.
        result: how it was trained and what it reached.
        path: the bundle's folder; its name is the bundle's.
        command: what trains it again.
        seed: of the training.

    Returns:
        The bundle's folder.
    """
    one = len(task.tests) == 1
    facts: dict[str, Any] = dict(
        name=path.name.removesuffix(".bundle"),
        kind="escn",
        architecture=model.architecture(),
        elements=list(model.elements),
        cutoff_A=model.cutoff_A,
        level_of_theory=task.level_of_theory,
        training={
            "command": command,
            "data": ", ".join(names_only(task.training.source.split(", "))),
            "split": task.split,
            "sha256": task.training.sha256(),
            "test_sha256": {label: test.sha256() for label, test in task.tests.items()},
            "n_frames": task.training.n_frames,
            "n_validation": task.validation.n_frames,
            "n_test": sum(test.n_frames for test in task.tests.values()),
            "steps": result.steps,
            "best_step": result.best_step,
            "cpu_seconds": round(result.cpu_seconds, 1),
            "seed": seed,
        },
        held_out={
            key if one else f"{label}: {key}": value
            for label, measures in result.measures.items()
            for key, value in measures.items()
        },
        versions=package_versions(),
        citation=task.citation,
    )
    card = BundleCard.model_validate(facts)
    return save_bundle(path, card, model.cpu().state_dict())
