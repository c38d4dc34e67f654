"""The rows of the table of propagators: three trained maps, a control, and what they are held to.

Every contestant gives frames at multiples of 4 fs, however long its own segments are.

| row | learns from | segment |
|---|---|---|
| hamiltonian | forces, then segments, then two in a row | 4 fs, two kicks |
| control | forces, all the budget | velocity Verlet, 0.5 and 1 fs |
| direct-4, direct-8 | all frames of two segments in a row | 4 and 8 fs, one call |
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from egno_md.benchmarks.budgeted_fit import fit_within
from egno_md.benchmarks.direct_egno import DirectEGNO
from egno_md.benchmarks.direct_training import (
    Batch,
    Measures,
    UnrolledLoss,
    as_direct,
)
from egno_md.benchmarks.propagator_data import BOND_CAP, INTERVAL_FS, Lessons
from egno_md.bonds import bond_graph_distance
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import PairGraph, pair_graph
from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.learned import molecule_graph
from egno_md.roles import Potential
from egno_md.state import Molecule, State

#: Time between the frames that a contestant gives, fs.
FRAME_FS: Final = 4.0

#: `(positions, velocities, n)` to the next n frames, `(n_replicas, n, n_atoms, 3)` each.
Frames = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]

#: How to draw a batch, its loss, and the validation.
_Task = tuple[
    Callable[[int, torch.Generator], Batch],
    Callable[[nn.Module, Batch], tuple[Tensor, Measures]],
    Callable[[nn.Module], dict[str, float]],
]

#: Sizes that all networks share.
_WIDTHS: Final[Mapping[str, int]] = {"n_hidden": 48, "n_vectors": 12, "n_layers": 2}

#: Share of the budget, applications of the map (0: forces), and learning rate of each stage.
_STAGES: Final = ((0.3, 0, 3e-3), (0.4, 1, 1e-3), (0.3, 2, 5e-4))

#: Segments in a row that a Direct EGNO learns from.
_UNROLLED: Final = 2

#: Deviation of their noisy start, as a share of the change over a segment.
_NOISE: Final = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Contestant:
    """One row of the table, ready to be measured.

    Attributes:
        name: what the table calls it.
        frames: makes frames every `FRAME_FS`.
        calls_per_ps: calls of network or potential per picosecond; 0 for none.
        cpu_seconds: what its training cost, None without one.
        runs: whether long runs of it are made.
    """

    name: str
    frames: Frames
    calls_per_ps: float
    cpu_seconds: float | None = None
    runs: bool = True


def references(potential: Potential, molecule: Molecule) -> list[Contestant]:
    """Make the rows without a network.

    Args:
        potential: the true one.
        molecule: what moves.
    """

    def still(x: Tensor, v: Tensor, n: int) -> tuple[Tensor, Tensor]:
        return x[:, None].expand(-1, n, -1, -1), v[:, None].expand(-1, n, -1, -1)

    def free(x: Tensor, v: Tensor, n: int) -> tuple[Tensor, Tensor]:
        t = FRAME_FS * torch.arange(1, n + 1).to(x)[:, None, None]
        return x[:, None] + t * v[:, None], v[:, None].expand(-1, n, -1, -1)

    def verlet(step_fs: float) -> Frames:
        dynamics = VelocityVerlet(potential, step_fs, FRAME_FS, 1)

        def frames(x: Tensor, v: Tensor, n: int) -> tuple[Tensor, Tensor]:
            segment = dynamics.advance(State(molecule, x, v), n)
            return segment.positions, segment.velocities

        return frames

    return [
        Contestant("static", still, 0.0, runs=False),
        Contestant("free flight", free, 0.0, runs=False),
        *(
            Contestant(
                f"true potential, velocity Verlet {dt:g} fs",
                verlet(dt),
                1000.0 / dt,
                runs=dt == 0.5,  # dear; the others only show the error of the time step
            )
            for dt in (0.5, 1.0, 2.0)
        ),
    ]


def hamiltonian(
    lessons: Lessons, seed: int, cpu_seconds: float, folder: Path, resume: bool
) -> list[Contestant]:
    """Train a Hamiltonian EGNO: forces, segments of 4 fs, two of them in a row.

    Args:
        lessons: the data.
        seed: seed of weights and batches.
        cpu_seconds: the budget of all stages together.
        folder: takes the trainings.
        resume: go on with what is in the folder.
    """
    model = _hamiltonian_network(lessons, seed, step_fs=FRAME_FS, n_stages=2, n_modes=2)
    graph, spent = molecule_graph(lessons.start.molecule, model), 0.0
    for number, (share, chain, rate) in enumerate(_STAGES):
        kind = _forces if chain == 0 else _segments(chain)
        sample, loss, validate = kind(lessons, graph)
        spent += fit_within(
            model,
            sample,
            loss,
            validate,
            cpu_seconds=share * cpu_seconds,
            learning_rate=rate,
            seed=1000 * seed + number,
            folder=folder / f"stage-{number}",
            resume=resume,
            description=f"hamiltonian, chain {chain}",
        ).cpu_seconds
    return [_stepped("Hamiltonian EGNO, 4 fs", model, graph, FRAME_FS, spent)]


def control(
    lessons: Lessons, seed: int, cpu_seconds: float, folder: Path, resume: bool
) -> list[Contestant]:
    """Match forces with the same network and integrate them by velocity Verlet.

    One stage and one mode make a Hamiltonian EGNO velocity Verlet, whatever its step.

    Args:
        lessons: the data.
        seed: seed of weights and batches.
        cpu_seconds: the budget.
        folder: takes the training.
        resume: go on with what is in the folder.
    """
    model = _hamiltonian_network(lessons, seed, step_fs=1.0, n_stages=1, n_modes=1)
    graph = molecule_graph(lessons.start.molecule, model)
    sample, loss, validate = _forces(lessons, graph)
    spent = fit_within(
        model,
        sample,
        loss,
        validate,
        cpu_seconds=cpu_seconds,
        learning_rate=_STAGES[0][2],
        seed=1000 * seed,
        folder=folder,
        resume=resume,
        description="control",
    ).cpu_seconds
    rows = []
    for step_fs in (0.5, 1.0):
        stepping = copy.deepcopy(model)
        stepping.step_fs = step_fs
        name = f"control: its forces, velocity Verlet {step_fs:g} fs"
        rows.append(_stepped(name, stepping, graph, step_fs, spent))
    return rows


def direct(horizon_fs: float) -> Callable[..., list[Contestant]]:
    """Return the training of a Direct EGNO on segments of some length.

    Args:
        horizon_fs: the length.
    """

    def trained(
        lessons: Lessons, seed: int, cpu_seconds: float, folder: Path, resume: bool
    ) -> list[Contestant]:
        model, graph = _direct_network(lessons, seed, horizon_fs)
        times = INTERVAL_FS * torch.arange(1, round(horizon_fs / INTERVAL_FS) + 1)

        def follow(network: nn.Module, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return as_direct(network).advance(x, v, graph, times)

        losses, held = (
            UnrolledLoss(
                follow, paths, INTERVAL_FS, times.tolist(), n_chain=_UNROLLED, noise=_NOISE
            )
            for paths in (lessons.training, lessons.validation)
        )
        return _fitted(
            f"Direct EGNO, {horizon_fs:g} fs",
            model,
            graph,
            (losses.sample, losses, _validated(held, held.from_the_start())),
            (cpu_seconds, seed, folder, resume),
        )

    return trained


def _hamiltonian_network(
    lessons: Lessons, seed: int, *, step_fs: float, n_stages: int, n_modes: int
) -> HamiltonianEGNO:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HamiltonianEGNO(
            lessons.elements,
            lessons.classes,
            step_fs=step_fs,
            n_stages=n_stages,
            n_modes=n_modes,
            bond_cap=BOND_CAP,
            **_WIDTHS,
        )
    model.distance_mean.copy_(lessons.distance_mean)
    model.distance_spread.copy_(lessons.distance_spread)
    return model


def _direct_network(lessons: Lessons, seed: int, horizon_fs: float) -> tuple[DirectEGNO, PairGraph]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DirectEGNO(lessons.elements, lessons.classes, horizon_fs=horizon_fs, **_WIDTHS)
    model.distance_mean.copy_(lessons.distance_mean)
    model.distance_spread.copy_(lessons.distance_spread)
    molecule = lessons.start.molecule
    apart = bond_graph_distance(molecule.n_atoms, molecule.bonds, BOND_CAP)
    known = (lessons.elements, lessons.classes)
    return model, pair_graph(molecule.numbers, molecule.masses, apart, *known)


def _our(network: nn.Module) -> HamiltonianEGNO:
    if not isinstance(network, HamiltonianEGNO):
        raise TypeError(f"a HamiltonianEGNO was to be fitted, got {type(network).__name__}")
    return network


def _forces(lessons: Lessons, graph: PairGraph) -> _Task:
    """Match U(x, 0) to the forces, as the first stage of the curriculum does."""
    points, held = lessons.points, lessons.held_points

    def sample(batch_size: int, generator: torch.Generator) -> Batch:
        which = torch.randint(len(points.forces), (batch_size,), generator=generator)
        return points.positions[which], points.forces[which]

    def loss(network: nn.Module, batch: Batch) -> tuple[Tensor, Measures]:
        error = _our(network).force(batch[0], graph, 0) - batch[1]
        return error.square().mean().sqrt(), {}

    def validate(network: nn.Module) -> dict[str, float]:
        found = _our(network.eval()).force(held.positions[::3], graph, 0)
        return {"score": float((found - held.forces[::3]).norm() / held.forces[::3].norm())}

    return sample, loss, validate


def _segments(chain: int) -> Callable[[Lessons, PairGraph], _Task]:
    """Match frames after some applications of the map, as the later stages do."""
    times = [FRAME_FS * k for k in range(1, chain + 1)]

    def task(lessons: Lessons, graph: PairGraph) -> _Task:
        def follow(network: nn.Module, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return _our(network).advance(x, v, graph, chain)

        losses = UnrolledLoss(follow, lessons.training, INTERVAL_FS, times)
        held = UnrolledLoss(follow, lessons.validation, INTERVAL_FS, times)
        return losses.sample, losses, _validated(held, held.from_the_start())

    return task


def _validated(
    loss: Callable[[nn.Module, Batch], tuple[Tensor, Measures]], batch: Batch
) -> Callable[[nn.Module], dict[str, float]]:
    """A validation that scores by the loss of one fixed batch."""

    def validate(network: nn.Module) -> dict[str, float]:
        return {"score": float(loss(network.eval(), batch)[0].detach())}

    return validate


def _stepped(
    name: str, model: HamiltonianEGNO, graph: PairGraph, step_fs: float, spent: float
) -> Contestant:
    """A trained Hamiltonian network as a row."""
    model.eval().requires_grad_(False)
    per_frame = round(FRAME_FS / step_fs)

    def frames(x: Tensor, v: Tensor, n: int) -> tuple[Tensor, Tensor]:
        xs, vs = model.advance(x, v, graph, n * per_frame)
        return xs[:, per_frame - 1 :: per_frame], vs[:, per_frame - 1 :: per_frame]

    return Contestant(name, frames, 1000.0 * model.n_stages / step_fs, spent)


def _fitted(
    name: str,
    model: DirectEGNO,
    graph: PairGraph,
    task: _Task,
    how: tuple[float, int, Path, bool],
) -> list[Contestant]:
    """Fit a Direct EGNO and make it a row."""
    cpu_seconds, seed, folder, resume = how
    spent = fit_within(
        model,
        *task,
        cpu_seconds=cpu_seconds,
        learning_rate=_STAGES[0][2],
        seed=1000 * seed,
        folder=folder,
        resume=resume,
        description=name,
    ).cpu_seconds
    model.eval().requires_grad_(False)
    per_segment = round(model.horizon_fs / FRAME_FS)
    times = FRAME_FS * torch.arange(1, per_segment + 1)

    def frames(x: Tensor, v: Tensor, n: int) -> tuple[Tensor, Tensor]:
        xs, vs = [], []
        for begin in range(0, n, per_segment):
            now = times[: n - begin]
            parts = model.advance(x, v, graph, now)
            x, v = parts[0][:, -1], parts[1][:, -1]
            xs.append(parts[0])
            vs.append(parts[1])
        return torch.cat(xs, 1), torch.cat(vs, 1)

    return [Contestant(name, frames, 1000.0 / model.horizon_fs, spent)]


TRAININGS: Final[Mapping[str, Callable[..., list[Contestant]]]] = {
    "hamiltonian": hamiltonian,
    "control": control,
    "direct-4": direct(4.0),
    "direct-8": direct(8.0),
}
