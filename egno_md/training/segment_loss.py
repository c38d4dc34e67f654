"""How far a Hamiltonian EGNO's segments are from the true ones, a loss and its measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from egno_md.data.windows import Windows
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.propagators.total_energy import total_energies
from egno_md.roles import Potential
from egno_md.state import Molecule, State, kinetic_energy
from egno_md.training.lesson_pairs import Pairs, advanced, farthest_A
from egno_md.units import KJ_PER_MOL

Scale = Literal["change", "thermal"]

#: About 1/omega of X-H stretches: makes errors of positions and velocities weigh alike there.
THERMAL_TIME_FS = 2.0


#: Windows at once in a cell, where replicas make one large graph.
CELLS_AT_ONCE = 4


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """Frames of windows on the network's own time grid, the start first.

    Attributes:
        molecule: what moved.
        positions: `(n_windows, n_frames, n_atoms, 3)`, Å.
        velocities: same shape, Å/fs.
        cell: `(n_windows, 3, 3)`, Å, or None without periodicity.
    """

    molecule: Molecule
    positions: Tensor
    velocities: Tensor
    cell: Tensor | None = None

    @classmethod
    def of(cls, windows: Windows, step_fs: float) -> Paths:
        """Pick the frames at multiples of the network's step.

        Args:
            windows: the windows.
            step_fs: T of the network.

        Raises:
            ValueError: if the windows have no frames at these times.
        """
        picked = [0]
        for k in range(1, int(float(windows.times_fs[-1]) / step_fs + 1e-6) + 1):
            off = (windows.times_fs - k * step_fs).abs()
            if float(off.min()) > 1e-6 * step_fs:
                raise ValueError(
                    f"{windows.source}: no frame {k * step_fs:g} fs after the start; a network "
                    f"with a step of {step_fs:g} fs needs frames at its multiples"
                )
            picked.append(1 + int(off.argmin()))
        if len(picked) < 2:
            raise ValueError(
                f"{windows.source}: windows of {float(windows.times_fs[-1]):g} fs are shorter "
                f"than one step of {step_fs:g} fs"
            )
        x = torch.cat([windows.positions0[:, None], windows.positions], 1)[:, picked]
        v = torch.cat([windows.velocities0[:, None], windows.velocities], 1)[:, picked]
        return cls(windows.molecule, x, v, windows.cell)

    @property
    def n_steps(self) -> int:
        """Steps of the network that a path covers."""
        return int(self.positions.shape[1]) - 1

    def upto(self, n_steps: int) -> Paths:
        """Return the same paths cut after some steps."""
        keep = n_steps + 1
        x, v = self.positions[:, :keep], self.velocities[:, :keep]
        return Paths(self.molecule, x, v, self.cell)

    def cast(self, dtype: torch.dtype, device: str) -> Paths:
        """Return the same paths in another dtype on another device."""
        return Paths(
            self.molecule,
            self.positions.to(device=device, dtype=dtype),
            self.velocities.to(device=device, dtype=dtype),
            self.cell,
        )


def per_element(values: Tensor, numbers: Tensor) -> Tensor:
    """Root mean square over windows and the atoms of each element.

    Args:
        values: `(n_windows, n_atoms, 3)`.
        numbers: `(n_atoms,)` atomic numbers.

    Returns:
        `(n_atoms, 1)`.
    """
    squares = values.square().mean((0, -1))
    result = torch.empty_like(squares)
    for z in torch.unique(numbers):
        result[numbers == z] = squares[numbers == z].mean()
    return result.sqrt()[:, None]


class SegmentLoss:
    """Error of positions and velocities over a scale, which is each element's own.

    | scale | velocities | positions | weighs |
    |---|---|---|---|
    | change | their true change | the true displacement | all elements alike |
    | thermal | thermal velocity | what it covers in `THERMAL_TIME_FS` | by the energy error |

    The first learns quickest. A map that is volume-preserving heats a molecule by the energy of
    its errors, most of it in stiff X-H bonds: the second, used at the end, lowers just that.
    """

    def __init__(self, paths: Paths, pairs: Pairs, n_chain: int, scale: Scale = "change") -> None:
        """Measure the scales.

        Args:
            paths: the training paths.
            pairs: the molecule's pairs.
            n_chain: applications of the map per sample.
            scale: what errors are measured by.

        Raises:
            ValueError: if the paths are shorter than the chain.
        """
        if paths.n_steps < n_chain:
            raise ValueError(
                f"the windows cover {paths.n_steps} steps of the network; a chain of "
                f"{n_chain} needs longer windows"
            )
        self.paths, self.pairs, self.n_chain = paths, pairs, n_chain
        x, v, z = (
            paths.positions,
            paths.velocities,
            paths.molecule.numbers.to(paths.positions.device),
        )
        last = range(1, n_chain + 1)
        if scale == "thermal":
            self.turned = per_element(v[:, 0], z).expand(n_chain, -1, -1)
            self.moved = THERMAL_TIME_FS * self.turned
        else:
            self.moved = torch.stack([per_element(x[:, k] - x[:, 0], z) for k in last])
            self.turned = torch.stack([per_element(v[:, k] - v[:, 0], z) for k in last])

    def sample(self, batch_size: int, generator: torch.Generator) -> SegmentBatch:
        """Draw windows and where in them to start.

        Args:
            batch_size: number of samples.
            generator: source of randomness.
        """
        n = self.paths.positions.shape[0]
        which = torch.randint(n, (batch_size,), generator=generator)
        begin = torch.randint(
            self.paths.n_steps - self.n_chain + 1, (batch_size,), generator=generator
        )
        frames = begin[:, None] + torch.arange(self.n_chain + 1)
        return SegmentBatch(
            self,
            self.paths.positions[which[:, None], frames],
            self.paths.velocities[which[:, None], frames],
            None if self.paths.cell is None else self.paths.cell[which],
        )

    def errors(
        self, got_x: Tensor, got_v: Tensor, true_x: Tensor, true_v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean square errors of positions and of velocities over their scales."""
        error_x = ((got_x - true_x) / self.moved).square().mean()
        return error_x, ((got_v - true_v) / self.turned).square().mean()

    def __call__(
        self, model: HamiltonianEGNO, batch: SegmentBatch
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Return the loss of a batch and its two parts."""
        x, v = batch.positions, batch.velocities
        got = advanced(model, self.pairs, x[:, 0], v[:, 0], self.n_chain, batch.cell, farthest_A(x))
        error_x, error_v = self.errors(*got, x[:, 1:], v[:, 1:])
        # The root weighs batches alike whatever their temperature.
        loss = (error_x + error_v).sqrt()
        return loss, {"position": error_x.detach().sqrt(), "velocity": error_v.detach().sqrt()}


@dataclass(frozen=True, slots=True, eq=False)
class SegmentBatch:
    """True frames of some segments of one molecule.

    Attributes:
        loss: what they are judged by.
        positions: `(batch, n_chain + 1, n_atoms, 3)`, Å, the start first.
        velocities: same shape, Å/fs.
        cell: `(batch, 3, 3)`, Å, or None without periodicity.
    """

    loss: SegmentLoss
    positions: Tensor
    velocities: Tensor
    cell: Tensor | None


def chunks(n: int, size: int) -> list[Tensor]:
    """Cut 0..n-1 into pieces of one size, the last filled up from the start.

    Equal pieces need one compiled shape only.

    Args:
        n: how many.
        size: largest piece.
    """
    size = min(size, n)
    return [torch.arange(i, i + size) % n for i in range(0, n, size)]


def predicted(
    model: HamiltonianEGNO, paths: Paths, pairs: Pairs, chunk: int = 256
) -> tuple[Tensor, Tensor]:
    """Return the network's frames for every path, `(n_windows, n_steps, n_atoms, 3)` each."""
    model.eval()
    n = paths.positions.shape[0]
    xs, vs = [], []
    for rows in chunks(n, chunk if paths.cell is None else CELLS_AT_ONCE):
        truth = paths.positions[rows]
        x, v = advanced(
            model,
            pairs,
            truth[:, 0],
            paths.velocities[rows, 0],
            paths.n_steps,
            None if paths.cell is None else paths.cell[rows],
            0.0 if paths.cell is None else farthest_A(truth),
        )
        xs.append(x.detach())
        vs.append(v.detach())
    return torch.cat(xs)[:n], torch.cat(vs)[:n]


def segment_measures(model: HamiltonianEGNO, paths: Paths, pairs: Pairs) -> dict[str, float]:
    """Measure chained segments against held-out paths.

    Args:
        model: the network.
        paths: held-out paths.
        pairs: the molecule's pairs.

    Returns:
        What `frame_measures` does.
    """
    return frame_measures(model.step_fs, paths, *predicted(model, paths, pairs))


def frame_measures(step_fs: float, paths: Paths, x: Tensor, v: Tensor) -> dict[str, float]:
    """Measure predicted frames against held-out paths.

    Args:
        step_fs: time between frames.
        paths: held-out paths.
        x: predicted positions, `(n_windows, n_steps, n_atoms, 3)`, Å.
        v: predicted velocities, same shape, Å/fs.

    Returns:
        For every multiple of the step, with its time in the name: the error of positions over
        the displacement and of velocities over their change (root mean squares), and mean and
        spread of the error of the kinetic energy, kJ/mol.
    """
    measures: dict[str, float] = {}
    for k in range(1, paths.n_steps + 1):
        at = f"{k * step_fs:g}fs"
        true_x, true_v = paths.positions[:, k], paths.velocities[:, k]
        measures[f"position_error_over_displacement_{at}"] = float(
            (x[:, k - 1] - true_x).norm() / (true_x - paths.positions[:, 0]).norm()
        )
        measures[f"velocity_error_over_change_{at}"] = float(
            (v[:, k - 1] - true_v).norm() / (true_v - paths.velocities[:, 0]).norm()
        )
        kinetic = kinetic_energy(paths.molecule, v[:, k - 1]) - kinetic_energy(
            paths.molecule, true_v
        )
        measures[f"kinetic_energy_error_mean_kJ_per_mol_{at}"] = float(kinetic.mean() / KJ_PER_MOL)
        measures[f"kinetic_energy_error_std_kJ_per_mol_{at}"] = float(kinetic.std() / KJ_PER_MOL)
    return measures


def total_energy_errors_eV(
    model: HamiltonianEGNO, paths: Paths, pairs: Pairs, potential: Potential
) -> Tensor:
    """Change of the true total energy over each predicted segment, `(n_windows,)` eV.

    Args:
        model: the network.
        paths: held-out paths, at constant energy.
        pairs: the molecule's pairs.
        potential: gives the potential energy.
    """
    last_x, last_v = (part[:, -1] for part in predicted(model, paths, pairs))

    def total(positions: Tensor, velocities: Tensor) -> Tensor:
        x, v = positions.double().cpu(), velocities.double().cpu()
        state = State(paths.molecule, x, v, 0.0, paths.cell)
        return total_energies(potential, state)

    return total(last_x, last_v) - total(paths.positions[:, 0], paths.velocities[:, 0])
