"""Judges: each accepts the leading frames of a segment and says why it rejects the rest.

Cheap ones first: finite values, bonds, contacts, kinetic temperature, and last the energy
error, which asks a potential. All treat replicas separately. A number that is NaN is never
within a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from egno_md.propagators.energy_judge import EnergyJudge
from egno_md.propagators.guarded import finite_frames, leading
from egno_md.roles import Verdict
from egno_md.segment import Segment
from egno_md.state import Molecule, State, temperature_K
from egno_md.trajectories.nearest_images import half_thickness_A, nearest_images

#: Share of the contact limit that holds where no bonds are listed.
_WITHOUT_BONDS = 0.7

__all__ = ["BondJudge", "ContactJudge", "EnergyJudge", "FiniteJudge", "TemperatureJudge"]


def atom_name(molecule: Molecule, index: int) -> str:
    """Return the atom's own name, or its symbol and index, such as `H4`."""
    if molecule.names:
        return molecule.names[index]
    from ase.data import chemical_symbols

    return f"{chemical_symbols[int(molecule.numbers[index])]}{index}"


def verdict_of(accepted: Tensor, reason: Callable[[int, int], str]) -> Verdict:
    """Make a verdict from a decision per frame.

    Args:
        accepted: `(n_replicas, n_frames)` bool.
        reason: says why frame f of replica r is not accepted, called with (r, f).
    """
    n_accepted = leading(accepted).cpu()
    n_frames = accepted.shape[1]
    reasons = tuple(
        None if k == n_frames else reason(r, k) for r, k in enumerate(n_accepted.tolist())
    )
    return Verdict(n_accepted, reasons)


def _to_nearest(segment: Segment, arrows: Tensor) -> Tensor:
    """Lead arrows `(n_replicas, ..., 3)` to the nearest images, if there are any."""
    if segment.cell is None or not any(segment.molecule.pbc):
        return arrows
    return nearest_images(arrows, segment.cell, segment.molecule.pbc)


def _check_room(segment: Segment, limit_A: float) -> None:
    """Refuse cells in which an image that is too close could be missed."""
    pbc = segment.molecule.pbc
    if not any(pbc):
        return
    if segment.cell is None:
        raise ValueError(f"the contact judge needs the cell of a system periodic along {pbc}")
    room_A = half_thickness_A(segment.cell, pbc)
    if room_A < limit_A:
        raise ValueError(
            f"the contact judge allows {limit_A:.2f} Å and more, but the cell is only "
            f"{2 * room_A:.2f} Å thick: repeat it, or leave the judge out"
        )


class _Stateless:
    """What a judge without memory answers about restarts."""

    def restart_state(self) -> dict[str, Tensor]:
        """Nothing: the next verdict depends on its arguments only."""
        return {}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Nothing to take back."""


class FiniteJudge(_Stateless):
    """Accepts frames whose positions and velocities are all finite."""

    name = "finite values"

    def judge(self, start: State, segment: Segment) -> Verdict:
        """Look at every number of the segment."""

        def reason(r: int, f: int) -> str:
            for what, unit, values in (
                ("position", "Å", segment.positions[r, f]),
                ("velocity", "Å/fs", segment.velocities[r, f]),
            ):
                bad = (~torch.isfinite(values)).any(-1).nonzero()
                if len(bad):
                    i = int(bad[0])
                    atom = atom_name(segment.molecule, i)
                    return f"{what} of {atom} is {values[i].tolist()} {unit}; it must be finite"
            raise RuntimeError("unreachable: a rejected frame has a number that is not finite")

        return verdict_of(finite_frames(segment), reason)


class BondJudge(_Stateless):
    """Accepts frames in which every bond is near its reference length.

    Bonds are those of the molecule; in a cell they lead to the nearest images.
    """

    name = "bond lengths"

    def __init__(self, reference_A: Tensor, limit_A: float) -> None:
        """Set the limit.

        Args:
            reference_A: `(n_bonds,)`, Å, in the order of `molecule.bonds`.
            limit_A: largest deviation accepted.

        Raises:
            ValueError: if a length or the limit is not positive and finite.
        """
        reference = torch.as_tensor(reference_A, dtype=torch.float64)
        if reference.ndim != 1 or not bool((torch.isfinite(reference) & (reference > 0)).all()):
            raise ValueError(
                "reference bond lengths must be a vector of positive numbers of Å, "
                f"got {reference.tolist()}"
            )
        if not 0.0 < limit_A < float("inf"):
            raise ValueError(f"limit_A is {limit_A}; it must be a positive number of Å")
        self.reference_A = reference
        self.limit_A = limit_A

    @classmethod
    def around(cls, molecule: Molecule, positions: Tensor, limit_A: float) -> BondJudge:
        """Take the bond lengths of one geometry as the reference.

        Args:
            molecule: gives the bonds.
            positions: `(n_atoms, 3)`, Å.
            limit_A: largest deviation accepted.

        Raises:
            ValueError: as the constructor does, or if the shape is another.
        """
        if tuple(positions.shape) != (molecule.n_atoms, 3):
            raise ValueError(
                f"one geometry of shape ({molecule.n_atoms}, 3) is needed, "
                f"got {tuple(positions.shape)}"
            )
        i, j = molecule.bonds.T
        return cls((positions[i] - positions[j]).norm(dim=-1), limit_A)

    def judge(self, start: State, segment: Segment) -> Verdict:
        """Measure every bond in every frame.

        Raises:
            ValueError: if the molecule's bonds are not as many as the references.
        """
        bonds = segment.molecule.bonds
        lengths = self._lengths(segment)
        reference = self.reference_A.to(lengths.device)
        within = (lengths - reference).abs() <= self.limit_A

        def reason(r: int, f: int) -> str:
            off = (lengths[r, f] - reference).abs()
            k = int(off.nan_to_num(nan=float("inf")).argmax())
            i, j = (atom_name(segment.molecule, int(a)) for a in bonds[k])
            return (
                f"bond {i}-{j} is {float(lengths[r, f, k]):.2f} Å, {float(off[k]):.2f} Å from its "
                f"reference {float(reference[k]):.2f} Å; allowed {self.limit_A:g} Å"
            )

        return verdict_of(within.all(-1), reason)

    def deviations_A(self, segment: Segment) -> Tensor:
        """Largest deviation of a bond in every frame, `(n_replicas, n_frames)`, Å.

        Args:
            segment: with at least one bond.

        Raises:
            ValueError: as `judge` does.
        """
        lengths = self._lengths(segment)
        deviations: Tensor = (lengths - self.reference_A.to(lengths.device)).abs().amax(-1)
        return deviations

    def _lengths(self, segment: Segment) -> Tensor:
        """Bond lengths `(n_replicas, n_frames, n_bonds)`, Å."""
        bonds = segment.molecule.bonds
        if len(bonds) != len(self.reference_A):
            raise ValueError(
                f"the bond judge has {len(self.reference_A)} reference lengths, "
                f"the molecule has {len(bonds)} bonds"
            )
        x = segment.positions
        arrows = _to_nearest(segment, x[:, :, bonds[:, 0]] - x[:, :, bonds[:, 1]])
        lengths: Tensor = arrows.norm(dim=-1).to(torch.float64)
        return lengths


class ContactJudge(_Stateless):
    """Accepts frames in which no two atoms that are not bonded come too close.

    The limit of a pair is a factor times the sum of its covalent radii (Cordero et al. 2008,
    as ASE tabulates them), or one length for all. Where no bonds are listed at all, as in a metal
    or a salt, neighbours stand at about that sum, and 0.7 of the limit is used. In a periodic
    cell the nearest images count.
    """

    name = "close contacts"

    def __init__(self, factor: float = 1.0, limit_A: float | None = None) -> None:
        """Set the limit.

        Args:
            factor: share of the sum of covalent radii; not used if `limit_A` is given.
            limit_A: shortest distance accepted, whatever the elements.

        Raises:
            ValueError: if it is not positive.
        """
        for what, value in (("factor", factor), ("limit_A", limit_A)):
            if value is not None and not 0.0 < value < float("inf"):
                raise ValueError(f"{what} is {value}; it must be a positive number")
        self.factor = factor
        self.limit_A = limit_A

    def judge(self, start: State, segment: Segment) -> Verdict:
        """Measure every pair in every frame.

        Raises:
            ValueError: if a periodic cell is missing, or thinner than two limits.
        """
        molecule = segment.molecule
        pairs, limits = self._pairs(molecule)
        _check_room(segment, float(limits.max()) if len(limits) else 0.0)
        pairs, limits = pairs.to(segment.positions.device), limits.to(segment.positions.device)
        within = torch.ones(
            segment.positions.shape[:2], dtype=torch.bool, device=segment.positions.device
        )
        # Frame by frame, to hold no more than one frame's pairs at a time.
        for f in range(segment.n_frames if len(pairs) else 0):
            within[:, f] = (self._distances(segment, f, pairs) >= limits).all(-1)

        def reason(r: int, f: int) -> str:
            distance = self._distances(segment, f, pairs)[r]
            k = int((distance - limits).nan_to_num(nan=-float("inf")).argmin())
            i, j = (atom_name(molecule, int(a)) for a in pairs[k])
            return (
                f"{i} and {j}, not bonded, are {float(distance[k]):.2f} Å apart; "
                f"allowed {float(limits[k]):.2f} Å and more"
            )

        return verdict_of(within, reason)

    def shares(self, segment: Segment) -> Tensor:
        """Smallest factor that any pair would break, `(n_replicas, n_frames)`; inf without pairs.

        Raises:
            ValueError: as `judge` does.
        """
        pairs, limits = self._pairs(segment.molecule)
        _check_room(segment, float(limits.max()) if len(limits) else 0.0)
        home = segment.positions.device
        found = torch.full(segment.positions.shape[:2], float("inf"), dtype=torch.float64)
        for f in range(segment.n_frames if len(pairs) else 0):
            apart = self._distances(segment, f, pairs.to(home)) / limits.to(home)
            found[:, f] = self.factor * apart.amin(-1).cpu()
        return found

    def _pairs(self, molecule: Molecule) -> tuple[Tensor, Tensor]:
        """Pairs that are not bonded `(n_pairs, 2)` and their limits `(n_pairs,)` Å."""
        n = molecule.n_atoms
        free = torch.ones((n, n), dtype=torch.bool).triu(1)
        free[molecule.bonds[:, 0], molecule.bonds[:, 1]] = False
        pairs = free.nonzero()
        if self.limit_A is not None:
            return pairs, torch.full((len(pairs),), self.limit_A, dtype=torch.float64)
        from ase.data import covalent_radii

        radii = torch.tensor([float(covalent_radii[int(z)]) for z in molecule.numbers])
        factor = self.factor * (1.0 if len(molecule.bonds) else _WITHOUT_BONDS)
        return pairs, factor * radii.to(torch.float64)[pairs].sum(1)

    @staticmethod
    def _distances(segment: Segment, frame: int, pairs: Tensor) -> Tensor:
        """Distances `(n_replicas, n_pairs)` Å in one frame."""
        x = segment.positions[:, frame].to(torch.float64)
        arrows = _to_nearest(segment, x[:, pairs[:, 0]] - x[:, pairs[:, 1]])
        distances: Tensor = torch.linalg.vector_norm(arrows, dim=-1)
        return distances


def temperature_band(degrees_of_freedom: int, false_alarm_rate: float) -> tuple[float, float]:
    """Return the band, as shares of T, that equilibrium leaves with the given probability.

    The kinetic temperature of f degrees of freedom is T times a chi-squared number over f.

    Args:
        degrees_of_freedom: f, positive.
        false_alarm_rate: probability of a value outside, half of it on each side.

    Raises:
        ValueError: if f is not positive or the rate not between 0 and 1.
    """
    if degrees_of_freedom < 1:
        raise ValueError(f"degrees_of_freedom is {degrees_of_freedom}; it must be positive")
    if not 0.0 < false_alarm_rate < 1.0:
        raise ValueError(f"false_alarm_rate is {false_alarm_rate}; it must lie between 0 and 1")
    shape = torch.tensor(degrees_of_freedom / 2.0, dtype=torch.float64)

    def solve(tail: Callable[[Tensor, Tensor], Tensor], falls: bool) -> float:
        # The quantile of a gamma distribution by bisection of log x.
        low, high = -700.0, 700.0
        while high - low > 1e-12 * max(1.0, abs(low)):
            middle = 0.5 * (low + high)
            x = torch.tensor(middle, dtype=torch.float64).exp()
            above = float(tail(shape, x)) > 0.5 * false_alarm_rate
            low, high = (middle, high) if above == falls else (low, middle)
        return float(torch.tensor(low, dtype=torch.float64).exp() / shape)

    return solve(torch.special.gammainc, False), solve(torch.special.gammaincc, True)


class TemperatureJudge(_Stateless):
    """Accepts frames whose kinetic temperature is one that equilibrium produces.

    Meant for runs with a bath: without one the total energy, not the temperature, is given.
    """

    name = "kinetic temperature"

    def __init__(
        self,
        temperature_K: float,
        false_alarm_rate: float = 1e-6,
        degrees_of_freedom: int | None = None,
    ) -> None:
        """Set the temperature.

        Args:
            temperature_K: temperature of the bath, positive.
            false_alarm_rate: share of good frames, per replica, that may be rejected.
            degrees_of_freedom: 3 n_atoms when None, as under Langevin.

        Raises:
            ValueError: if a number is out of range.
        """
        if not 0.0 < temperature_K < float("inf"):
            raise ValueError(f"temperature_K is {temperature_K}; it must be positive")
        temperature_band(degrees_of_freedom or 1, false_alarm_rate)
        self.temperature_K = temperature_K
        self.false_alarm_rate = false_alarm_rate
        self.degrees_of_freedom = degrees_of_freedom
        self._bands: dict[int, tuple[float, float]] = {}

    def band_K(self, molecule: Molecule) -> tuple[float, float]:
        """Return the lowest and the highest temperature accepted."""
        f = self.degrees_of_freedom or 3 * molecule.n_atoms
        if f not in self._bands:
            self._bands[f] = temperature_band(f, self.false_alarm_rate)
        low, high = self._bands[f]
        return low * self.temperature_K, high * self.temperature_K

    def judge(self, start: State, segment: Segment) -> Verdict:
        """Compute the kinetic temperature of every frame."""
        low, high = self.band_K(segment.molecule)
        f = self.degrees_of_freedom or 3 * segment.molecule.n_atoms
        kelvin = temperature_K(segment.molecule, segment.velocities, f)

        def reason(r: int, frame: int) -> str:
            return (
                f"kinetic temperature is {float(kelvin[r, frame]):.0f} K; allowed {low:.0f} to "
                f"{high:.0f} K at {self.temperature_K:g} K ({f} degrees of freedom, false alarm "
                f"rate {self.false_alarm_rate:g} per frame)"
            )

        return verdict_of((kelvin >= low) & (kelvin <= high), reason)
