"""The statistics of a trajectory that say whether it looks like another one.

`trajectory_statistics` turns frames into a small dictionary of tensors; the file
`reference.safetensors` of a bundle is exactly such a dictionary, made by a classical run.
Counts are kept per *block* (one replica, or one stretch of one), so that sampling noise can be
judged: blocks of a reference are independent replicas.

| key | shape, type | meaning |
|---|---|---|
| `format_version` | `()` int64 | 1 |
| `numbers` | `(n_atoms,)` int64 | atomic numbers, in the order used here |
| `bonds` | `(n_bonds, 2)` int64 | bonds, in the order used here |
| `bond_class` | `(n_bonds,)` int64 | alike bonds have equal numbers (`bond_classes.py`) |
| `bond_mean_A`, `bond_std_A` | `(n_bonds,)` float64 | mean and spread of each length, Å |
| `bond_min_A`, `bond_max_A` | `(n_bonds,)` float64 | shortest and longest ever, Å |
| `bond_low_A` | `(n_bonds,)` float64 | lower end of the histogram, 0.6 Å wide, 60 bins |
| `bond_counts` | `(n_blocks, n_bonds, 60)` int | lengths; end bins take all beyond |
| `bond_inefficiency_fs` | `(n_bonds,)` float64 | time between independent samples, fs |
| `pair_counts` | `(n_blocks, 500)` int | all pair distances, 1e-6..10 Å: h(r) |
| `radial_counts` | `(n_blocks, n_element_pairs, 201)` int | g(r), see `radial_distribution.py` |
| `radial_elements` | `(n_element_pairs, 2)` int64 | atomic numbers, lighter first |
| `radial_high_A`, `volume_A3` | `()` float64 | where its bins end; mean volume of the cell |
| `radial_inefficiency_fs` | `()` float64 | time between independent samples of g(r), fs |
| `angle_counts` | `(n_blocks, n_angle_classes, 60)` int | alike angles together, 0..pi |
| `torsion_counts` | `(n_blocks, n_torsion_classes, 60)` int | alike torsions, -pi..pi |
| `elements` | `(n_elements,)` int64 | atomic numbers present, ascending |
| `element_temperature_mean_K`, `..._std_K` | `(n_elements,)` float64 | kinetic, over frames |
| `temperature_mean_K`, `temperature_std_K` | `()` float64 | kinetic, over frames |
| `potential_mean_eV`, `potential_std_eV` | `()` float64 | where evaluated |
| `block_frames` | `(n_blocks,)` int64 | frames counted in each block |
| `n_replicas`, `n_frames`, `n_bad_frames` | `()` int64 | frames per replica; all not finite |
| `frame_interval_fs` | `()` float64 | time between frames |

A reference has in addition `block_half (n_blocks,)`, 0 or 1 for its two seeds, and the scalars
`temperature_K`, `timestep_fs`, `friction_per_ps` and the text `description_utf8`.

What was not given (velocities, energies) or does not apply has no key: a cell that is periodic
in all directions has g(r), a molecule without any has h(r), what lies between has neither. Bonds
are kept in the order of the trajectory. Another order of the same atoms is recognised by element
and bonded surroundings: see `comparison.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from egno_md.state import Molecule
from egno_md.trajectories.histograms import (
    ANGLE_BINS,
    BOND_BINS,
    BOND_RANGE_A,
    Bins,
    Nearest,
    angle_values,
    bond_lengths,
    count_columns,
    count_pairs,
    nearest_in,
    sum_alike,
    torsion_values,
)
from egno_md.trajectories.inefficiency import slowest_inefficiencies
from egno_md.trajectories.radial_distribution import RadialTally
from egno_md.units import BOLTZMANN_EV_PER_K, EV_PER_AMU_A2_FS2

FORMAT_VERSION = 1

#: Frames of bond lengths kept for the correlation time.
_SERIES_FRAMES = 8192

#: Coordinates worked on at once, to bound the memory.
_CHUNK_VALUES = 4_000_000


class StatisticsCounter:
    """Counts frames as they come, so that no trajectory need fit into memory."""

    def __init__(
        self,
        molecule: Molecule,
        bins: Bins,
        *,
        n_replicas: int,
        n_frames: int,
        frame_interval_fs: float,
        blocks_per_replica: int = 1,
        degrees_of_freedom: int | None = None,
    ) -> None:
        """Start counting.

        Args:
            molecule: what moves.
            bins: where the histogram bins lie.
            n_replicas: replicas of every chunk.
            n_frames: frames per replica that will come in all.
            frame_interval_fs: time between them.
            blocks_per_replica: stretches each replica is cut into.
            degrees_of_freedom: per replica; 3 n_atoms when None.
        """
        self.molecule, self.bins = molecule, bins
        self.n_replicas, self.n_frames = n_replicas, n_frames
        self.frame_interval_fs = frame_interval_fs
        self.blocks_per_replica = max(1, min(blocks_per_replica, n_frames))
        self.elements = torch.unique(molecule.numbers)
        self._dof = degrees_of_freedom
        self._seen = 0
        self._bad = 0
        n_blocks = n_replicas * self.blocks_per_replica
        self._counts: dict[str, Tensor] = {}
        self._block_frames = torch.zeros(n_blocks, dtype=torch.int64)
        n_bonds = len(molecule.bonds)
        self._sum = torch.zeros((2, n_bonds), dtype=torch.float64)
        self._low = torch.full((n_bonds,), float("inf"), dtype=torch.float64)
        self._high = torch.full((n_bonds,), float("-inf"), dtype=torch.float64)
        self._lengths: list[Tensor] = []
        high_A = bins.radial_high_A
        self._radial = None
        if high_A is not None:
            self._radial = RadialTally(molecule.numbers, high_A, n_blocks, n_replicas)
        self._temperatures: list[Tensor] = []
        self._potentials: list[Tensor] = []

    def add(
        self,
        positions: Tensor,
        velocities: Tensor | None = None,
        potential_energies: Tensor | None = None,
        cell: Tensor | None = None,
    ) -> None:
        """Count the frames that follow those counted so far.

        Args:
            positions: `(n_replicas, n, n_atoms, 3)`, Å.
            velocities: same shape, Å/fs, or None.
            potential_energies: `(n_replicas, n)`, eV, NaN where unknown, or None.
            cell: `(n_replicas, 3, 3)`, Å, or None without periodicity.

        Raises:
            ValueError: if the shape is wrong or more frames come than were announced.
        """
        shape = (self.n_replicas, positions.shape[1], self.molecule.n_atoms, 3)
        if tuple(positions.shape) != shape:
            raise ValueError(f"positions must have shape {shape}, got {tuple(positions.shape)}")
        if self._seen + shape[1] > self.n_frames:
            raise ValueError(
                f"{self.n_frames} frames per replica were announced, "
                f"but {self._seen + shape[1]} came"
            )
        per_frame = self.n_replicas * self.molecule.n_atoms * max(self.molecule.n_atoms, 6)
        step = max(1, _CHUNK_VALUES // per_frame)
        for start in range(0, shape[1], step):
            self._count(positions[:, start : start + step], cell)
        if velocities is not None:
            self._temperatures.append(self.element_temperatures(velocities))
        if potential_energies is not None:
            self._potentials.append(potential_energies.to(torch.float64))

    def _count(self, positions: Tensor, cell: Tensor | None) -> None:
        """Count one piece of `(n_replicas, n, n_atoms, 3)`."""
        r, n = positions.shape[:2]
        per = self.blocks_per_replica
        stretch = (torch.arange(self._seen, self._seen + n) * per) // self.n_frames
        block = (torch.arange(r)[:, None] * per + stretch).reshape(-1)
        frames = positions.reshape(r * n, -1, 3).to(torch.float64)
        good = torch.isfinite(frames).all(-1).all(-1)
        self._seen += n
        self._bad += int((~good).sum())
        boxes = None if cell is None else cell.to(torch.float64).repeat_interleave(n, 0)
        nearest = nearest_in(self.molecule, boxes)
        lengths = bond_lengths(frames, self.molecule.bonds, nearest)
        if sum(part.shape[1] for part in self._lengths) < _SERIES_FRAMES:
            self._lengths.append(lengths.reshape(r, n, -1).to(torch.float32))
        if self._radial is not None and boxes is not None:
            self._radial.add(frames, boxes, block, good)
        frames, block, lengths = frames[good], block[good], lengths[good]
        boxes = None if boxes is None else boxes[good]
        if len(frames) == 0:
            return
        self._block_frames += torch.bincount(block, minlength=len(self._block_frames))
        self._sum[0] += lengths.sum(0)
        self._sum[1] += lengths.square().sum(0)
        self._low = torch.minimum(self._low, lengths.amin(0))
        self._high = torch.maximum(self._high, lengths.amax(0))
        self._histograms(frames, lengths, block, nearest_in(self.molecule, boxes))

    def _histograms(
        self, frames: Tensor, lengths: Tensor, block: Tensor, nearest: Nearest | None
    ) -> None:
        n_blocks = len(self._block_frames)
        c = self.bins.coordinates
        width = torch.full((len(c.bonds),), BOND_RANGE_A, dtype=torch.float64)
        low = self.bins.bond_low_A
        self._gain("bond_counts", count_columns(lengths, block, n_blocks, low, width, BOND_BINS))
        pi = torch.pi
        for key, values, classes, keys, start, span in (
            (
                "angle_counts",
                angle_values(frames, c.angles, nearest),
                c.angle_class,
                c.angle_keys,
                0.0,
                pi,
            ),
            (
                "torsion_counts",
                torsion_values(frames, c.torsions, nearest),
                c.torsion_class,
                c.torsion_keys,
                -pi,
                2 * pi,
            ),
        ):
            n = values.shape[1]
            begin = torch.full((n,), start, dtype=torch.float64)
            spans = torch.full((n,), span, dtype=torch.float64)
            counts = count_columns(values, block, n_blocks, begin, spans, ANGLE_BINS)
            self._gain(key, sum_alike(counts, classes, len(keys)))
        if not any(self.molecule.pbc):
            self._gain("pair_counts", count_pairs(frames, block, n_blocks))

    def _gain(self, key: str, counts: Tensor) -> None:
        self._counts[key] = self._counts[key] + counts if key in self._counts else counts

    def element_temperatures(self, velocities: Tensor) -> Tensor:
        """Kinetic temperature of each element.

        Args:
            velocities: `(..., n_atoms, 3)`, Å/fs.

        Returns:
            `(..., n_elements)`, K, float64.
        """
        kinetic = 0.5 * EV_PER_AMU_A2_FS2 * self.molecule.masses
        kinetic = kinetic * velocities.to(torch.float64).square().sum(-1)
        freedom = atom_freedom(self.molecule, self._dof)
        of = [self.molecule.numbers == z for z in self.elements]
        return torch.stack(
            [2 * kinetic[..., m].sum(-1) / (freedom[m].sum() * BOLTZMANN_EV_PER_K) for m in of], -1
        )

    def temperature_series(self) -> Tensor | None:
        """Temperatures of all frames so far, `(n_replicas, n, n_elements)`, K, or None."""
        return torch.cat(self._temperatures, 1) if self._temperatures else None

    def total_temperature(self, of_elements: Tensor) -> Tensor:
        """Temperature of the whole molecule from those of its elements.

        Args:
            of_elements: `(..., n_elements)`, K.

        Returns:
            `(...)`, K.
        """
        freedom = atom_freedom(self.molecule, self._dof)
        weights = torch.stack([freedom[self.molecule.numbers == z].sum() for z in self.elements])
        return (of_elements * weights).sum(-1) / weights.sum()

    def result(self) -> dict[str, Tensor]:
        """Return what was counted, with the keys of the table above.

        Raises:
            ValueError: if no finite frame came.
        """
        n = int(self._block_frames.sum())
        if n == 0:
            raise ValueError("no finite frame was given: there is nothing to count")
        mean = self._sum[0] / n
        found = {
            "format_version": torch.tensor(FORMAT_VERSION),
            "numbers": self.molecule.numbers,
            "bonds": self.molecule.bonds,
            "bond_class": self.bins.coordinates.bond_class,
            "bond_mean_A": mean,
            "bond_std_A": (self._sum[1] / n - mean.square()).clamp_min(0).sqrt(),
            "bond_min_A": self._low,
            "bond_max_A": self._high,
            "bond_low_A": self.bins.bond_low_A,
            "bond_inefficiency_fs": slowest_inefficiencies(self._lengths) * self.frame_interval_fs,
            **self._counts,
            "elements": self.elements,
            "block_frames": self._block_frames,
            "n_replicas": torch.tensor(self.n_replicas),
            "n_frames": torch.tensor(self._seen),
            "n_bad_frames": torch.tensor(self._bad),
            "frame_interval_fs": torch.tensor(self.frame_interval_fs, dtype=torch.float64),
        }
        if self._radial is not None:
            found |= self._radial.result(self.frame_interval_fs)
        series = self.temperature_series()
        if series is not None:
            total = self.total_temperature(series)
            for key, values in (("temperature", total), ("element_temperature", series)):
                flat = values.reshape(-1, *values.shape[2:])
                flat = flat[torch.isfinite(flat).reshape(len(flat), -1).all(1)]
                found[f"{key}_mean_K"] = flat.mean(0)
                found[f"{key}_std_K"] = flat.std(0, correction=0)
        if self._potentials:
            known = torch.cat(self._potentials, 1)
            known = known[torch.isfinite(known)]
            if len(known):
                found["potential_mean_eV"] = known.mean()
                found["potential_std_eV"] = known.std(correction=0)
        return found


def trajectory_statistics(
    molecule: Molecule,
    positions: Tensor,
    velocities: Tensor | None = None,
    *,
    frame_interval_fs: float,
    potential_energies: Tensor | None = None,
    bins: Bins | None = None,
    blocks_per_replica: int = 1,
    degrees_of_freedom: int | None = None,
    cell: Tensor | None = None,
) -> dict[str, Tensor]:
    """Count a whole trajectory.

    Args:
        molecule: what moved.
        positions: `(n_replicas, n_frames, n_atoms, 3)`, Å.
        velocities: same shape, Å/fs, or None.
        frame_interval_fs: time between frames.
        potential_energies: `(n_replicas, n_frames)`, eV, NaN where unknown, or None.
        bins: from the reference that this will be compared with; around the frames when None.
        blocks_per_replica: stretches each replica is cut into.
        degrees_of_freedom: per replica; 3 n_atoms when None.
        cell: `(n_replicas, 3, 3)`, Å, or None without periodicity.

    Returns:
        The dictionary described at the top of this file.

    Raises:
        ValueError: if a shape is wrong or no frame is finite.
    """
    if positions.ndim != 4:
        raise ValueError(
            "positions must have shape (n_replicas, n_frames, n_atoms, 3), "
            f"got {tuple(positions.shape)}"
        )
    counter = StatisticsCounter(
        molecule,
        Bins.around(molecule, positions, cell) if bins is None else bins,
        n_replicas=positions.shape[0],
        n_frames=positions.shape[1],
        frame_interval_fs=frame_interval_fs,
        blocks_per_replica=blocks_per_replica,
        degrees_of_freedom=degrees_of_freedom,
    )
    counter.add(positions, velocities, potential_energies, cell)
    return counter.result()


def atom_freedom(molecule: Molecule, degrees_of_freedom: int | None = None) -> Tensor:
    """Degrees of freedom that each atom carries.

    Without removed motion each atom has three. When the total momentum is held at zero, an
    atom of mass m in a molecule of mass M has 3 (1 - m/M): in equilibrium its mean kinetic
    energy is smaller by just that. Further removed ones are shared evenly.

    Args:
        molecule: gives the masses.
        degrees_of_freedom: of the whole molecule; 3 n_atoms when None.

    Returns:
        `(n_atoms,)` float64.

    Raises:
        ValueError: if the number is not between 1 and 3 n_atoms.
    """
    full = 3 * molecule.n_atoms
    wanted = full if degrees_of_freedom is None else degrees_of_freedom
    if not 1 <= wanted <= full:
        raise ValueError(
            f"degrees of freedom must be between 1 and {full} "
            f"for {molecule.n_atoms} atoms, got {wanted}"
        )
    if wanted > full - 3:
        return torch.full((molecule.n_atoms,), wanted / molecule.n_atoms, dtype=torch.float64)
    share = 3.0 * (1.0 - molecule.masses / molecule.masses.sum())
    return share * (wanted / (full - 3))
