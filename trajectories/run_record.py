"""What a report needs to know of a run, gathered in one pass over its frames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egno_md.segment import Event, MadeBy, Segment
from egno_md.state import Molecule
from egno_md.trajectories.acceleration_facts import Acceleration, acceleration_of
from egno_md.trajectories.comparison import bins_for
from egno_md.trajectories.effective_samples import EffectiveSamples, SlowSeries
from egno_md.trajectories.guard_facts import guard_facts
from egno_md.trajectories.histograms import Bins
from egno_md.trajectories.sampling_facts import sampling_facts
from egno_md.trajectories.statistics import StatisticsCounter
from egno_md.trajectories.store_reader import TrajectoryReader
from egno_md.units import BOLTZMANN_EV_PER_K

#: Blocks that the errors of a run's averages come from, at least, where it has the frames.
_MIN_BLOCKS = 16


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord:
    """A run, reduced to what a report shows.

    Attributes:
        molecule: what moved.
        n_replicas: copies of it.
        n_frames: frames per replica, the start among them.
        times_fs: `(n_frames,)` float64, fs.
        made_by: `(n_replicas, n_frames)` int8, values of `MadeBy`.
        potential_energies: `(n_replicas, n_frames)` float64, eV, NaN where not evaluated.
        temperatures: `(n_replicas, n_frames, n_elements)` float64, kinetic, K.
        total_temperature: `(n_replicas, n_frames)` float64, K.
        elements: `(n_elements,)` int64, atomic numbers.
        degrees_of_freedom: per replica.
        statistics: of the frames after the start, or None when there are none.
        reference_problem: why the reference could not be used, or None.
        events: what the guard did.
        config: settings of the run.
        bundles: bundle name -> sha256 of its weights.
        versions: package -> version.
        seed: seed of the run.
        wall_s: wall-clock time it took, NaN when unknown.
        cpu_s: CPU time it took, NaN when unknown.
        source: name of the store, for people.
        sampling: what accept/reject did, see `egno_md.trajectories.sampling_facts`; empty for
            other runs.
        effective: independent samples of slow coordinates after the start, or None.
        guard: what a guard bounds, see `egno_md.trajectories.guard_facts`; empty for other runs.
        acceleration: what two time steps or parareal did, None for other runs.
        warnings: what was warned of, as far as it is known.
    """

    molecule: Molecule
    n_replicas: int
    n_frames: int
    times_fs: Tensor
    made_by: Tensor
    potential_energies: Tensor
    temperatures: Tensor
    total_temperature: Tensor
    elements: Tensor
    degrees_of_freedom: int
    statistics: dict[str, Tensor] | None = None
    reference_problem: str | None = None
    events: tuple[Event, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    bundles: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    wall_s: float = math.nan
    cpu_s: float = math.nan
    source: str = "run"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    effective: EffectiveSamples | None = None
    guard: Mapping[str, Any] = field(default_factory=dict)
    acceleration: Acceleration | None = None
    warnings: tuple[str, ...] = ()

    @property
    def length_ps(self) -> float:
        """Time each replica covers."""
        return float(self.times_fs[-1] - self.times_fs[0]) * 1e-3 if self.n_frames > 1 else 0.0

    @property
    def mode(self) -> str:
        """surrogate, guarded, metropolised or classical; "unknown" when the store does not say."""
        return str(self.config.get("mode", "unknown"))

    @property
    def target_K(self) -> float | None:
        """Temperature that a thermostat was to hold, or None without one."""
        if self.config.get("ensemble") != "nvt" or "temperature_K" not in self.config:
            return None
        return float(self.config["temperature_K"])

    @property
    def kinetic_energies(self) -> Tensor:
        """`(n_replicas, n_frames)` float64, eV."""
        return 0.5 * self.degrees_of_freedom * BOLTZMANN_EV_PER_K * self.total_temperature

    def share(self, maker: MadeBy) -> float:
        """Share of the frames after the start that one maker made; NaN without frames."""
        made = self.made_by[self.made_by != int(MadeBy.GIVEN)]
        return float((made == int(maker)).double().mean()) if len(made) else math.nan


def in_percent(share: float) -> str:
    """Write a share so that only all is 100 % and only nothing is 0 %: "99.99%".

    Args:
        share: 0 to 1.
    """
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return f"{min(max(share, 1e-4), 1.0 - 1e-4):.2%}"


def read_run(path: str | Path, reference: Mapping[str, Tensor] | None = None) -> RunRecord:
    """Read a store once, a piece at a time.

    Args:
        path: folder of the store.
        reference: what the bundle's `reference.safetensors` holds, or None.

    Raises:
        FileNotFoundError: if there is no store.
        ValueError: if it is no store or is damaged.
    """
    reader = TrajectoryReader(path)
    header = reader.header
    return record_run(
        header.molecule,
        reader.segments(),
        n_replicas=header.n_replicas,
        n_frames=reader.n_frames,
        frame_interval_fs=header.frame_interval_fs,
        reference=reference,
        events=reader.events,
        config=header.config,
        bundles=header.bundles,
        versions=header.versions,
        seed=header.seed,
        wall_s=reader.commit.wall_s,
        cpu_s=reader.commit.cpu_s,
        source=Path(path).name,
        sampling=sampling_facts(reader),
        guard=guard_facts(reader),
        acceleration=acceleration_of(reader),
        warnings=tuple(header.notes.get("warnings", ())),
    )


def record_run(
    molecule: Molecule,
    segments: Iterable[Segment],
    *,
    n_replicas: int,
    n_frames: int,
    frame_interval_fs: float,
    reference: Mapping[str, Tensor] | None = None,
    degrees_of_freedom: int | None = None,
    **labels: Any,  # noqa: ANN401 - the remaining fields of RunRecord
) -> RunRecord:
    """Reduce frames to a record.

    Args:
        molecule: what moved.
        segments: all frames in order, the start first.
        n_replicas: copies.
        n_frames: frames per replica that will come, the start among them.
        frame_interval_fs: time between them.
        reference: gives the bins, or None: then the bins lie around the first frames.
        degrees_of_freedom: per replica; what the config implies when None.
        **labels: the remaining fields of `RunRecord`.

    Raises:
        ValueError: if the frames do not fit together.
    """
    counter: StatisticsCounter | None = None
    slow = SlowSeries(
        molecule, n_replicas=n_replicas, n_frames=n_frames, frame_interval_fs=frame_interval_fs
    )
    problem: str | None = None
    dof, n_given = degrees_of_freedom or 3 * molecule.n_atoms, 0
    scalars: list[tuple[Tensor, ...]] = []
    for segment in segments:
        if counter is None:
            dof = degrees_of_freedom or _freedom(segment, labels.get("config") or {})
            n_given = int(bool((segment.made_by[:, 0] == int(MadeBy.GIVEN)).all()))
            bins, problem = _bins(molecule, segment, reference)
            counter = _counter(
                molecule, bins, n_replicas, n_frames - n_given, frame_interval_fs, dof
            )
        kelvin = counter.element_temperatures(segment.velocities)
        skip = n_given if not scalars else 0
        if segment.n_frames > skip:
            x = segment.positions[:, skip:]
            energies = segment.potential_energies[:, skip:]
            counter.add(x, segment.velocities[:, skip:], energies, segment.cell)
            slow.add(x, segment.cell)
        scalars.append((segment.times_fs, segment.made_by, segment.potential_energies, kelvin))
    elements = torch.unique(molecule.numbers)
    times_fs, made_by, energies, by_element = _joined(scalars, n_replicas, len(elements))
    return RunRecord(
        molecule,
        n_replicas,
        by_element.shape[1],
        times_fs,
        made_by,
        energies,
        by_element,
        counter.total_temperature(by_element) if counter else by_element.sum(-1),
        elements,
        dof,
        statistics=_result(counter),
        reference_problem=problem,
        effective=slow.result(),
        **labels,
    )


def _joined(
    scalars: Sequence[tuple[Tensor, ...]], n_replicas: int, n_elements: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Times, makers, potential energies and temperatures of all segments."""
    if not scalars:
        none = torch.zeros((n_replicas, 0), dtype=torch.float64)
        kelvin = torch.zeros((n_replicas, 0, n_elements))
        return torch.zeros(0, dtype=torch.float64), none.to(torch.int8), none, kelvin
    times, made_by, energies, temperatures = zip(*scalars, strict=True)
    return (
        torch.cat(times).to(torch.float64),
        torch.cat(made_by, 1),
        torch.cat(energies, 1).to(torch.float64),
        torch.cat(temperatures, 1),
    )


def _counter(
    molecule: Molecule,
    bins: Bins,
    n_replicas: int,
    n_frames: int,
    frame_interval_fs: float,
    degrees_of_freedom: int,
) -> StatisticsCounter:
    """A counter with enough blocks for the bootstrap, however few replicas there are."""
    return StatisticsCounter(
        molecule,
        bins,
        n_replicas=n_replicas,
        n_frames=max(1, n_frames),
        frame_interval_fs=frame_interval_fs,
        blocks_per_replica=-(-_MIN_BLOCKS // n_replicas),
        degrees_of_freedom=degrees_of_freedom,
    )


def _bins(
    molecule: Molecule, segment: Segment, reference: Mapping[str, Tensor] | None
) -> tuple[Bins, str | None]:
    """Bins of the reference where it fits, else around the first frames."""
    problem = None
    if reference:
        try:
            return bins_for(reference, molecule, segment.cell), None
        except ValueError as error:
            problem = str(error)
    return Bins.around(molecule, segment.positions, segment.cell), problem


def _freedom(segment: Segment, config: Mapping[str, Any]) -> int:
    """Degrees of freedom: three less when the total momentum is held at zero."""
    full = 3 * segment.molecule.n_atoms
    if config.get("ensemble") == "nvt" or segment.molecule.n_atoms < 2:
        return full
    masses = segment.molecule.masses[:, None]
    v = segment.velocities[:, -1].to(torch.float64)
    centre = (masses * v).sum(1).square().sum(-1) / masses.sum()
    all_of_it = (masses * v.square()).sum((1, 2))
    held = bool((all_of_it > 0).all()) and bool((centre <= 1e-8 * all_of_it).all())
    return full - 3 if held else full


def _result(counter: StatisticsCounter | None) -> dict[str, Tensor] | None:
    """Statistics, or None without a finite frame after the start."""
    try:
        return counter.result() if counter else None
    except ValueError:
        return None
