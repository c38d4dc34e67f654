"""Metropolised segments: any reversible map proposes, a trusted potential accepts or rejects.

Generalised hybrid Monte Carlo (Horowitz, Phys. Lett. B 268, 247 (1991),
doi:10.1016/0370-2693(91)90812-5). One proposal is

1. v <- c v + sqrt((1 - c^2) kT/m) xi,  c = exp(-friction * t)   (partial refresh)
2. (x', v') = one segment of length t from (x, v)
3. with probability min(1, exp(-(H(x', v') - H(x, v)) / kT)): (x', v'); else (x, -v)

with H = U + K of the target potential U. Each leaves exp(-H/kT) as it is, whatever made the
segment, if that is reversible and volume preserving: a bad proposal costs acceptance, never
correctness. In Horowitz's notation c is the cosine of the mixing angle.

| symbol | variable |
|---|---|
| U | `target`, its value `energy`, eV |
| (H(x', v') - H(x, v)) / kT | `rise` |
| t | `frame_interval_fs` |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from egno_md.propagators.by_replicas import by_replicas
from egno_md.propagators.classical import OrnsteinUhlenbeck
from egno_md.propagators.degrees_of_freedom import degrees_of_freedom, without_drift
from egno_md.propagators.metropolis_counts import MetropolisCounts, MetropolisStatistics
from egno_md.propagators.restart import named_under, taken_from
from egno_md.propagators.reversible_maps import refuse_irreversible, refuse_undeclared
from egno_md.roles import Potential, Propagator, refuse_no_potential
from egno_md.segment import MadeBy, Segment
from egno_md.state import Molecule, State, kinetic_energy, maxwell_boltzmann
from egno_md.units import BOLTZMANN_EV_PER_K

#: Largest total momentum that a map may give to a molecule at rest, as a share of what the
#: atoms have: rounding in float32, no more.
_MOMENTUM_LIMIT = 1e-4


class Metropolised:
    """Samples the canonical distribution of a target potential, exactly.

    A frame is the state after one proposal: its end, or the state before with its velocities
    flipped. Times count proposals, rejected ones too; they are no physical times. Frames carry
    the target's energies and say who made the configuration they show.

    The target is asked for one energy per proposal; that of the current state is remembered.
    """

    reversible = False
    volume_preserving = False
    #: Whether noise acts on the velocities, so that no motion of the whole stays at rest.
    has_bath = True

    def __init__(
        self,
        proposal: Propagator,
        target: Potential,
        temperature_K: float,
        friction_per_ps: float,
        generator: torch.Generator,
        *,
        proposal_frames: int | None = None,
        n_frames: int = 10,
        zero_momentum: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            proposal: makes the segments; reversible, volume preserving, without a bath.
            target: whose distribution is sampled.
            temperature_K: temperature, positive.
            friction_per_ps: sets how much of the velocities each refresh replaces: they keep
                exp(-friction * length of a proposal) of themselves; 1e4: nothing.
            generator: source of randomness.
            proposal_frames: frames of `proposal` that are one proposal; a full segment when None.
            n_frames: proposals in a segment of this propagator.
            zero_momentum: sample states of zero total momentum; the proposal must conserve it.

        Raises:
            ValueError: if the proposal does not declare what is needed, the target is no
                potential, or a number is out of range.
        """
        refuse_undeclared(proposal)
        refuse_no_potential("target", target)
        frames = proposal.n_frames if proposal_frames is None else proposal_frames
        for name, value in (("proposal_frames", frames), ("n_frames", n_frames)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        for name, number in (
            ("temperature_K", temperature_K),
            ("friction_per_ps", friction_per_ps),
        ):
            if not 0.0 < number < float("inf"):
                raise ValueError(f"{name} is {number}; it must be positive and finite")
        self.proposal, self.target = proposal, target
        self.proposal_frames, self._n_frames = frames, n_frames
        self.zero_momentum = zero_momentum
        self._bath = OrnsteinUhlenbeck(temperature_K, friction_per_ps, generator)
        self._counts = MetropolisCounts()
        self._known: dict[str, Tensor] = {}
        self._way_back_tried = False

    @property
    def temperature_K(self) -> float:
        """Temperature of the distribution."""
        return self._bath.temperature_K

    @property
    def frame_interval_fs(self) -> float:
        """Length of a proposal, which is the time between frames."""
        return self.proposal_frames * self.proposal.frame_interval_fs

    @property
    def n_frames(self) -> int:
        """Proposals in one full segment."""
        return self._n_frames

    def degrees_of_freedom(self, molecule: Molecule) -> int:
        """Count the degrees of freedom that share the kinetic energy."""
        return degrees_of_freedom(molecule, zero_momentum=self.zero_momentum)

    def statistics(self) -> MetropolisStatistics:
        """Acceptance and costs since the start of the run."""
        return self._counts.statistics(self.frame_interval_fs)

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the states after so many proposals, with the target's energies.

        Before the first proposal the way back is tried: a map that only says that it is
        reversible is refused.

        Args:
            state: where to start.
            n_frames: how many proposals; a full segment when None.

        Raises:
            ValueError: if no frames are asked for, the target gives no energy of the start, the
                proposal is not reversible or does not conserve a momentum held at zero, or it
                fails for every replica at the very first proposal.
        """
        count = self.n_frames if n_frames is None else n_frames
        if count < 1:
            raise ValueError(f"n_frames is {count}; ask for at least one frame")
        if not self._way_back_tried:
            self._try_the_way_back(state)
        here = _Sample(state, *self._energies_at_start(state))
        after = torch.arange(1, count + 1, dtype=torch.float64)
        samples: list[_Sample] = []
        for _ in range(count):
            here = self._next(here)
            samples.append(here)
        self._known = {
            "positions": here.state.positions,
            "energies": here.energy,
            "made_by": here.made_by,
        }
        if state.cell is not None:
            self._known["cell"] = state.cell
        return Segment(
            state.molecule,
            state.time_fs + after * self.frame_interval_fs,
            torch.stack([s.state.positions for s in samples], 1),
            torch.stack([s.state.velocities for s in samples], 1),
            torch.stack([s.made_by for s in samples], 1),
            torch.stack([s.energy for s in samples], 1),
            state.cell,
        )

    def restart_state(self) -> dict[str, Tensor]:
        """The generator, the counts, the remembered energies, and what the proposal needs."""
        return (
            self._bath.restart_state()
            | self._counts.restart_state()
            | named_under("known", self._known)
            | named_under("proposal", self.proposal.restart_state())
        )

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave.

        Raises:
            ValueError: if the record is of another kind of propagator.
        """
        self._counts.restore(saved)
        self._bath.restore(saved)
        self._known = taken_from("known", saved)
        self.proposal.restore(taken_from("proposal", saved))

    def _try_the_way_back(self, state: State) -> None:
        """Refuse a map that is not reversible; with thermal velocities, for a start may be at rest.

        They come from a stream of their own: trying changes nothing of what follows.
        """
        noise = torch.Generator().manual_seed(0)
        one = state.replica(0)
        v = maxwell_boltzmann(one.molecule, 1, self.temperature_K, noise).to(one.velocities)
        if self.zero_momentum:
            v = without_drift(one.molecule, v)
        refuse_irreversible(self.proposal, one.with_(velocities=v), self.proposal_frames)
        self._way_back_tried = True

    def _next(self, here: _Sample) -> _Sample:
        """Refresh the velocities, propose, accept or reject."""
        molecule, kT = here.state.molecule, BOLTZMANN_EV_PER_K * self.temperature_K
        v = self._bath.kicked(molecule, here.state.velocities, self.frame_interval_fs)
        if self.zero_momentum:
            v = without_drift(molecule, v)
        start = here.state.with_(velocities=v)
        x_end, v_end, made_by, usable = self._proposed(start)
        energy, _ = self._energies(start.with_(positions=x_end, velocities=v_end), usable)
        known = torch.isfinite(energy)
        total = here.energy + kinetic_energy(molecule, v).cpu()
        rise = (energy + kinetic_energy(molecule, v_end).cpu() - total) / kT
        rise = torch.where(known, rise, float("inf"))
        lots = torch.rand(
            len(rise),
            generator=self._bath.generator,
            dtype=torch.float64,
            device=self._bath.generator.device,
        )
        accepted = lots.cpu().log() < -rise
        self._counts.proposed(rise, accepted, ~usable, usable & ~known)
        taken = accepted.to(v.device)[:, None, None]
        return _Sample(
            start.with_(
                positions=torch.where(taken, x_end, start.positions),
                velocities=torch.where(taken, v_end, -v),
            ),
            torch.where(accepted, energy, here.energy),
            torch.where(accepted, made_by, here.made_by),
        )

    def _proposed(self, start: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ends of segments: positions, velocities, makers, and which of them can be used.

        What cannot be used is as at the start.
        """
        x, v = start.positions.clone(), start.velocities.clone()
        made_by = torch.zeros(start.n_replicas, dtype=torch.int8)
        usable = torch.zeros(start.n_replicas, dtype=torch.bool)
        errors: list[ValueError] = []
        for rows, segment in by_replicas(
            start.n_replicas,
            lambda rows: self.proposal.advance(start.replica(rows), self.proposal_frames),
        ):
            if isinstance(segment, ValueError):
                errors.append(segment)
                continue
            ends = segment.positions[:, -1].to(x), segment.velocities[:, -1].to(v)
            finite = torch.isfinite(torch.cat(ends, -1)).flatten(1).all(1)
            good = rows.to(x.device)[finite]
            x[good], v[good] = ends[0][finite], ends[1][finite]
            usable[rows], made_by[rows] = finite.cpu(), segment.made_by[:, -1].cpu()
        if len(errors) == start.n_replicas and not self._counts.any_proposals:
            raise ValueError(f"the proposal fails from the very start: {errors[0]}") from errors[0]
        if self.zero_momentum:
            self._refuse_drift(start.molecule, v[usable.to(v.device)])
        return x, v, made_by, usable

    def _refuse_drift(self, molecule: Molecule, velocities: Tensor) -> None:
        """Refuse a proposal that moved the centre of mass, which was at rest."""
        whole = kinetic_energy(molecule, velocities)
        drift = velocities - without_drift(molecule, velocities)
        share = (kinetic_energy(molecule, drift) / whole).sqrt()
        if len(share) and float(share.max()) > _MOMENTUM_LIMIT:
            raise ValueError(
                f"the {type(self.proposal).__name__} moves the centre of mass (momentum "
                f"{float(share.max()):.2g} of all there is), but zero_momentum needs a proposal "
                "that conserves momentum; leave zero_momentum out"
            )

    def _energies_at_start(self, state: State) -> tuple[Tensor, Tensor]:
        """Energies of the start `(n_replicas,)` eV and its makers, remembered where possible."""
        energy = torch.full((state.n_replicas,), float("nan"), dtype=torch.float64)
        made_by = torch.full((state.n_replicas,), int(MadeBy.GIVEN), dtype=torch.int8)
        same = _rows_as_before(state, self._known)
        if bool(same.any()):
            energy[same] = self._known["energies"][same]
            made_by[same] = self._known["made_by"][same]
        found, problems = self._energies(state, ~same)
        energy = torch.where(same, energy, found)
        bad = (~torch.isfinite(energy)).nonzero()
        if len(bad):
            r = int(bad[0, 0])
            raise ValueError(
                f"the target potential gives no energy for the start of replica {r} at "
                f"{state.time_fs:g} fs: {problems.get(r, 'it is not a finite number')}"
            )
        return energy, made_by

    def _energies(self, state: State, which: Tensor) -> tuple[Tensor, dict[int, str]]:
        """The target's energies of some replicas, `(n_replicas,)` eV, NaN elsewhere, and why."""
        energy = torch.full((state.n_replicas,), float("nan"), dtype=torch.float64)
        chosen = which.nonzero()[:, 0]
        problems: dict[int, str] = {}
        for picked, found in by_replicas(
            len(chosen), lambda rows: self.target.energies(state.replica(chosen[rows]))
        ):
            self._counts.evaluated(len(picked))
            if isinstance(found, ValueError):
                problems[int(chosen[picked[0]])] = str(found)
            else:
                energy[chosen[picked]] = found.detach().to("cpu", torch.float64)
        return energy, problems


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """A state with what belongs to its configuration.

    Attributes:
        state: positions and velocities.
        energy: `(n_replicas,)` float64, potential energy of the target, eV.
        made_by: `(n_replicas,)` int8, who made the configuration.
    """

    state: State
    energy: Tensor
    made_by: Tensor


def _rows_as_before(state: State, known: Mapping[str, Tensor]) -> Tensor:
    """Which replicas are at the remembered positions and cells, `(n_replicas,)` bool."""
    same = torch.zeros(state.n_replicas, dtype=torch.bool)
    here = {"positions": state.positions} | ({} if state.cell is None else {"cell": state.cell})
    if known.keys() - {"energies", "made_by"} != here.keys():
        return same
    for name, values in here.items():
        before = known[name]
        if before.shape != values.shape or before.dtype != values.dtype:
            return same
    rows = [
        (known[name].to(values.device) == values).flatten(1).all(1).cpu()
        for name, values in here.items()
    ]
    return torch.stack(rows).all(0)
