"""Makes training data with any potential: labelled frames, and windows with velocities.

Replicas spread over temperatures are kept in Langevin dynamics, long enough apart to be
decorrelated. Frames are labelled where they stand; windows are integrated on from there
at constant energy. The same seed gives the same data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egno_md.bonds import guess_bonds
from egno_md.data.cache import potential_fingerprint, remember
from egno_md.data.frames import LabelledFrames
from egno_md.data.progress import progress_bar
from egno_md.data.windows import Windows
from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.roles import Potential
from egno_md.state import State, maxwell_boltzmann

#: A bond longer than this times its length in the start geometry has broken.
_TORN = 1.6


@dataclass(frozen=True, slots=True)
class Sampling:
    """How starts are drawn.

    Attributes:
        n_replicas: replicas per temperature, moved together.
        timestep_fs: time step of the Langevin dynamics between samples.
        equilibration_fs: dynamics before the first sample.
        interval_fs: dynamics between samples of one replica.
        friction_per_ps: friction; high, because only decorrelation matters.
        seed: seed of everything random.
    """

    n_replicas: int = 32
    timestep_fs: float = 1.0
    equilibration_fs: float = 2000.0
    interval_fs: float = 40.0
    friction_per_ps: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: naming the field.
        """
        for name in ("n_replicas", "timestep_fs", "interval_fs", "friction_per_ps"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"sampling: {name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.equilibration_fs < float("inf"):
            raise ValueError(
                f"sampling: equilibration_fs must not be negative, got {self.equilibration_fs}"
            )


@dataclass(slots=True)
class _Chains:
    """Replicas at one temperature under Langevin dynamics; torn ones are replaced."""

    dynamics: Langevin
    state: State
    temperature_K: float
    generator: torch.Generator
    bonds: Tensor
    images_A: Tensor
    limits_A: Tensor
    n_torn: int = 0

    def advance(self, duration_fs: float, interval_fs: float) -> None:
        """Move all replicas on; replace those with a broken bond by copies of whole ones."""
        for _ in range(max(1, round(duration_fs / interval_fs))):
            self.state = self.dynamics.advance(self.state, 1).frame(0)
            torn = self._torn()
            if bool(torn.any()):
                self._replace(torn)

    def _torn(self) -> Tensor:
        i, j = self.bonds.T
        apart = self.state.positions[:, j] - self.state.positions[:, i] + self.images_A
        lengths = torch.linalg.vector_norm(apart, dim=-1)
        torn: Tensor = (lengths > self.limits_A).any(-1)
        return torn

    def _replace(self, torn: Tensor) -> None:
        whole = (~torn).nonzero()[:, 0]
        if len(whole) == 0:
            raise ValueError(
                f"all replicas broke a bond at {self.temperature_K} K; lower the temperature"
            )
        n = int(torn.sum())
        self.n_torn += n
        picks = whole[torch.randint(len(whole), (n,), generator=self.generator)]
        x, v = self.state.positions.clone(), self.state.velocities.clone()
        x[torn] = x[picks]
        fresh = maxwell_boltzmann(self.state.molecule, n, self.temperature_K, self.generator)
        v[torn] = fresh.to(v.dtype)
        self.state = self.state.with_(positions=x, velocities=v)


def _chains(
    potential: Potential, start: State, temperature_K: float, how: Sampling, seed: int
) -> _Chains:
    generator = torch.Generator().manual_seed(seed)
    picks = torch.arange(how.n_replicas) % start.n_replicas
    x = start.positions[picks].to(torch.float64)
    v = maxwell_boltzmann(start.molecule, how.n_replicas, temperature_K, generator)
    cell = None if start.cell is None else start.cell[picks].to(torch.float64)
    bonds = _bonds(start)
    i, j = bonds.T
    images = _images(x[0, j] - x[0, i], start)
    lengths = (x[0, j] - x[0, i] + images).norm(dim=-1)
    dynamics = Langevin(
        potential,
        timestep_fs=how.timestep_fs,
        frame_interval_fs=how.interval_fs,
        n_frames=1,
        temperature_K=temperature_K,
        friction_per_ps=how.friction_per_ps,
        generator=generator,
    )
    state = State(start.molecule, x, v, 0.0, cell)
    return _Chains(dynamics, state, temperature_K, generator, bonds, images, _TORN * lengths)


def _bonds(start: State) -> Tensor:
    molecule, cell = start.molecule, None if start.cell is None else start.cell[0]
    if len(molecule.bonds):
        return molecule.bonds
    return guess_bonds(molecule.numbers, start.positions[0], cell=cell, pbc=molecule.pbc)


def _images(apart: Tensor, start: State) -> Tensor:
    """What to add to each bond's vector to reach the nearest image, `(n_bonds, 3)` Å.

    Positions are not wrapped while they move, so this stays right for a cell that is fixed.
    """
    if start.cell is None:
        return torch.zeros_like(apart)
    cell = start.cell[0].to(apart)
    periodic = torch.tensor(start.molecule.pbc).to(apart)
    images: Tensor = (apart @ torch.linalg.inv(cell)).round() * periodic
    return -images @ cell


def _shares(n: int, temperatures_K: Sequence[float]) -> list[int]:
    """Split n over the temperatures as evenly as it goes."""
    if n < 1:
        raise ValueError(f"at least one sample must be asked for, got {n}")
    if not temperatures_K or any(not 0 < t < float("inf") for t in temperatures_K):
        raise ValueError(f"temperatures_K must be positive numbers, got {list(temperatures_K)}")
    base, rest = divmod(n, len(temperatures_K))
    return [base + (k < rest) for k in range(len(temperatures_K))]


def _starts(
    potential: Potential,
    start: State,
    n: int,
    temperatures_K: Sequence[float],
    how: Sampling,
    what: str,
) -> Iterator[tuple[State, Tensor]]:
    """Yield decorrelated states, n replicas in all, with their trajectory numbers."""
    shares = _shares(n, temperatures_K)
    with progress_bar(what, n) as advance:
        for k, (kelvin, share) in enumerate(zip(temperatures_K, shares, strict=True)):
            if share == 0:
                continue
            chains = _chains(potential, start, float(kelvin), how, how.seed * 1000 + k)
            if how.equilibration_fs > 0:
                chains.advance(how.equilibration_fs, how.interval_fs)
            left = share
            while left > 0:
                chains.advance(how.interval_fs, how.interval_fs)
                now = min(left, how.n_replicas)
                yield (
                    chains.state.replica(torch.arange(now)).with_(time_fs=0.0),
                    k * how.n_replicas + torch.arange(now),
                )
                left -= now
                torn = f", {chains.n_torn} torn" if chains.n_torn else ""
                advance(now, f"{kelvin:g} K{torn}")


def _description(
    potential: Potential,
    start: State,
    n: int,
    temperatures_K: Sequence[float],
    how: Sampling,
    **more: float,
) -> dict[str, Any]:
    return {
        "potential": potential_fingerprint(potential, start.replica(0)),
        "numbers": start.molecule.numbers.tolist(),
        "start": [round(x, 6) for x in start.positions.flatten().tolist()],
        "n": n,
        "temperatures_K": [float(t) for t in temperatures_K],
        "sampling": asdict(how),
        **({} if start.cell is None else {"cell": start.cell.flatten().tolist()}),
        **more,
    }


def sample_frames(
    potential: Potential,
    start: State,
    n_frames: int,
    temperatures_K: Sequence[float],
    *,
    sampling: Sampling | None = None,
    cache: Path | None = None,
    mover: Potential | None = None,
) -> LabelledFrames:
    """Draw decorrelated frames and label them with the potential.

    Args:
        potential: labels the frames.
        start: a sensible geometry, one or more replicas, without a cell.
        n_frames: frames in all, spread evenly over the temperatures.
        temperatures_K: temperatures of the Langevin dynamics.
        sampling: how the frames are drawn.
        cache: folder to keep them in, or None.
        mover: moves the molecule; the potential that labels when None.

    Returns:
        The frames, grouped by temperature; `trajectory` numbers the replicas.

    Raises:
        ValueError: if an argument is out of range, there is a cell, or all replicas break at a
            temperature.
    """
    if start.cell is not None:
        raise ValueError("labelled frames are made for molecules without a cell only")
    how, moving = sampling or Sampling(), potential if mover is None else mover

    def make() -> dict[str, Tensor]:
        parts = []
        for state, labels in _starts(moving, start, n_frames, temperatures_K, how, "frames"):
            answer = potential.evaluate(state)
            parts.append((state.positions, answer.energy, answer.forces, labels))
        names = ("positions", "energies", "forces", "trajectory")
        columns = zip(*parts, strict=True)
        return {name: torch.cat(column) for name, column in zip(names, columns, strict=True)}

    config = _description(potential, start, n_frames, temperatures_K, how)
    if mover is not None:
        config["mover"] = potential_fingerprint(mover, start.replica(0))
    made = remember(cache, "frames", config, make)
    return LabelledFrames.stack(
        start.molecule.numbers, source=f"{type(potential).__name__} frames", **made
    )


def sample_windows(
    potential: Potential,
    start: State,
    n_windows: int,
    horizon_fs: float,
    frame_interval_fs: float,
    temperatures_K: Sequence[float],
    *,
    timestep_fs: float = 0.25,
    sampling: Sampling | None = None,
    cache: Path | None = None,
) -> Windows:
    """Draw decorrelated starts and integrate each at constant energy over the horizon.

    Args:
        potential: moves the molecule.
        start: a sensible geometry, one or more replicas; a cell stays as it is.
        n_windows: windows in all, spread evenly over the temperatures.
        horizon_fs: length of a window, a multiple of the frame interval.
        frame_interval_fs: time between its frames, a multiple of the time step.
        temperatures_K: temperatures the starts are drawn at.
        timestep_fs: time step inside the windows (velocity Verlet). With a bath between windows
            a vibration of angular frequency w is wider than the potential's by (w timestep)^2 / 8:
            1.5 % for O-H with 0.5 fs.
        sampling: how the starts are drawn.
        cache: folder to keep them in, or None.

    Returns:
        The windows with potential energies; `trajectory` numbers the replicas.

    Raises:
        ValueError: if an argument is out of range, the intervals are not multiples, or all
            replicas break at a temperature.
    """
    how = sampling or Sampling()
    n_frames = round(horizon_fs / frame_interval_fs)
    if n_frames < 1 or abs(n_frames * frame_interval_fs - horizon_fs) > 1e-9 * horizon_fs:
        raise ValueError(
            f"the horizon of {horizon_fs} fs is not a multiple of the frame interval of "
            f"{frame_interval_fs} fs"
        )
    dynamics = VelocityVerlet(potential, timestep_fs, frame_interval_fs, n_frames)

    def make() -> dict[str, Tensor]:
        starts = _starts(potential, start, n_windows, temperatures_K, how, "windows")
        return _followed(potential, dynamics, starts, how.interval_fs)

    config = _description(
        potential,
        start,
        n_windows,
        temperatures_K,
        how,
        horizon_fs=horizon_fs,
        frame_interval_fs=frame_interval_fs,
        timestep_fs=timestep_fs,
    )
    made = remember(cache, "windows", config, make)
    return Windows.from_tensors(made, f"{type(potential).__name__} windows")


def _followed(
    potential: Potential,
    dynamics: VelocityVerlet,
    starts: Iterator[tuple[State, Tensor]],
    interval_fs: float,
) -> dict[str, Tensor]:
    """Integrate each start over the horizon; return all windows as named tensors."""
    parts: list[Windows] = []
    begins = 0.0
    for state, labels in starts:
        begins += interval_fs
        segment = dynamics.advance(state)
        parts.append(
            Windows(
                state.molecule,
                state.positions,
                state.velocities,
                segment.times_fs - state.time_fs,
                segment.positions,
                segment.velocities,
                energies0=potential.energies(state),
                energies=segment.potential_energies,
                trajectory=labels,
                begins_fs=torch.full((state.n_replicas,), begins, dtype=torch.float64),
                cell=state.cell,
            )
        )
    return Windows.join(parts).tensors() | {"trajectory": torch.cat([p.labels for p in parts])}
