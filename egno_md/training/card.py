"""The card of a trained bundle, from what was done and measured."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from egno_md.bundle import BundleCard, package_versions
from egno_md.config import TrainConfig
from egno_md.data.cache import config_hash
from egno_md.training.loop import FitResult
from egno_md.training.sources import names_only


class Data(Protocol):
    """Frames or windows that know where they come from."""

    @property
    def source(self) -> str:
        """Files or what made them."""
        ...

    def sha256(self) -> str:
        """Hash of the content."""
        ...


class Network(Protocol):
    """What every trained network says of itself."""

    @property
    def elements(self) -> Sequence[int]:
        """Atomic numbers it knows."""
        ...

    @property
    def cutoff_A(self) -> float | None:
        """Reach of a layer, Å; None where every pair is seen."""
        ...

    def architecture(self) -> dict[str, Any]:
        """Its hyper-parameters."""
        ...


def trained_card(
    config: TrainConfig,
    command: str,
    *,
    model: Network,
    molecules: Sequence[str],
    data: Sequence[Data],
    test: Sequence[Data],
    counts: Mapping[str, int],
    results: Sequence[FitResult],
    measures: Mapping[str, float],
    curve: Sequence[Mapping[str, float]] = (),
    horizon_fs: float | None = None,
    frame_interval_fs: float | None = None,
) -> BundleCard:
    """Write down what was done and measured.

    Args:
        config: the job.
        command: the command that asked for it.
        model: the trained network.
        molecules: constitutions of what it was trained on; empty if there are too many to tell.
        data: the training data, of one molecule or system each.
        test: the data of the measures.
        counts: how many frames or windows there were of each kind.
        results: how each fit went, in order.
        measures: measures on the test data.
        curve: validation error against processor time, see `learning_curve`.
        horizon_fs: length of a segment, of a propagator.
        frame_interval_fs: time between its frames.
    """
    training: dict[str, Any] = {
        "command": command,
        "data": ", ".join(_sources(data)),
        "sha256": _sha256(data),
        "test_sha256": _sha256(test),
        **_teacher(config),
        **counts,
        **_course(results),
        **_settings(config),
        "learning_curve": [dict(point) for point in curve],
    }
    facts: dict[str, Any] = dict(
        name=Path(config.out).name.removesuffix(".bundle"),
        kind=config.kind,
        architecture=model.architecture(),
        elements=list(model.elements),
        molecules=list(molecules),
        cutoff_A=model.cutoff_A,
        horizon_fs=horizon_fs,
        frame_interval_fs=frame_interval_fs,
        dtype=config.dtype,
        level_of_theory=config.level_of_theory,
        temperature_range_K=_temperatures(config),
        training=training,
        held_out=dict(measures),
        versions=package_versions(),
        citation=config.citation,
    )
    return BundleCard.model_validate(facts)


def _course(results: Sequence[FitResult]) -> dict[str, Any]:
    """How the fits went."""
    return {
        "steps": [r.steps for r in results],
        "best_steps": [r.best_step for r in results],
        "cpu_seconds": round(sum(r.cpu_seconds for r in results), 1),
        "wall_seconds": round(sum(r.wall_seconds for r in results), 1),
    }


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The seed, and all settings in one number."""
    asked = config.model_dump(mode="json", exclude={"out", "work", "resume"})
    return {"seed": config.seed, "settings": config_hash(asked)}


def _teacher(config: TrainConfig) -> dict[str, str | list[str]]:
    """Potentials and structures of data made on the spot, without folders."""
    fields = ("potential", "structure", "test_potential", "test_structure")
    named = {field: names_only(getattr(config, field)) for field in fields}
    return {key: v[0] if len(v) == 1 else v for key, v in named.items() if v}


def _sources(data: Sequence[Data]) -> list[str]:
    """Where the data comes from, each source once."""
    words = [word for part in data for word in part.source.split(", ")]
    return list(dict.fromkeys(names_only(words)))


def _sha256(data: Sequence[Data]) -> str:
    """Hash of the data; of several, the hash of theirs."""
    parts = [part.sha256() for part in data]
    return parts[0] if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _temperatures(config: TrainConfig) -> tuple[float, float] | None:
    """Lowest and highest temperature of data made on the spot; files do not say theirs."""
    if not config.potential:
        return None
    return min(config.temperatures_K), max(config.temperatures_K)
