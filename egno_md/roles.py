"""The roles that parts play for one another: potential, propagator, judge.

Plain protocols: anything with these members fits, nothing needs to inherit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from egno_md.segment import Segment
from egno_md.state import State


@dataclass(frozen=True, slots=True, eq=False)
class EnergyForces:
    """What a potential says about a state.

    Attributes:
        energy: `(n_replicas,)` float64, eV.
        forces: `(n_replicas, n_atoms, 3)`, eV/Å, dtype of the positions.
        virial: `(n_replicas, 3, 3)`, eV, -dE/d(strain), or None when not asked for.
        atom_energies: `(n_replicas, n_atoms)` float64, eV, whose sum is the energy, or None
            where a potential has no such thing.
    """

    energy: Tensor
    forces: Tensor
    virial: Tensor | None = None
    atom_energies: Tensor | None = None


@runtime_checkable
class Potential(Protocol):
    """Energy and forces of a state."""

    def evaluate(self, state: State) -> EnergyForces:
        """Return energies and forces of every replica.

        Raises:
            ValueError: if the potential does not know an element or the result is not finite.
        """
        ...

    def energies(self, state: State) -> Tensor:
        """Return energies only, `(n_replicas,)` float64, eV: cheaper than `evaluate`."""
        ...


def refuse_no_potential(name: str, given: object) -> None:
    """Refuse what is no potential, such as the name of a bundle.

    Args:
        name: of the argument.
        given: its value.

    Raises:
        ValueError: saying how to open a bundle.
    """
    if not isinstance(given, Potential):
        raise ValueError(
            f"{name} is {_what(given)}, which is no potential; open a bundle by "
            "ESCNPotential.from_bundle(name), or DistancePotential.from_bundle(name) for a quick "
            "copy"
        )


def _what(given: object) -> str:
    """Say what was given in a part's place."""
    return f"the name {given!r}" if isinstance(given, str) else f"a {type(given).__name__}"


@runtime_checkable
class Propagator(Protocol):
    """Turns a state into the segment that follows it."""

    @property
    def frame_interval_fs(self) -> float:
        """Time between frames."""
        ...

    @property
    def n_frames(self) -> int:
        """Frames of one full segment; the horizon is `n_frames * frame_interval_fs`."""
        ...

    @property
    def reversible(self) -> bool:
        """Whether flipping the velocities at the end leads back to the start."""
        ...

    @property
    def volume_preserving(self) -> bool:
        """Whether the map has a unit Jacobian in phase space."""
        ...

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the segment that follows `state`.

        Args:
            state: where to start; left as it is.
            n_frames: how many frames; a full segment when None. Never more than asked for.
        """
        ...

    def restart_state(self) -> dict[str, Tensor]:
        """Everything besides the `State` that the next `advance` depends on."""
        ...

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave: the next `advance` is then the same bit for bit."""
        ...


def refuse_no_propagator(name: str, given: object) -> None:
    """Refuse what is no propagator, such as the name of a bundle.

    Args:
        name: of the argument.
        given: its value.

    Raises:
        ValueError: saying how to open a bundle.
    """
    if not callable(getattr(given, "advance", None)):
        raise ValueError(
            f"{name} is {_what(given)}, which is no propagator; open a bundle by "
            "LearnedPropagator.from_bundle(name, molecule)"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What a judge says of a segment.

    Attributes:
        n_accepted: `(n_replicas,)` int64, leading frames that may be kept.
        reasons: per replica, why the next frame may not, or None when all may.
        potential_energies: `(n_replicas, n_frames)` eV, NaN where not evaluated, or None.
    """

    n_accepted: Tensor
    reasons: tuple[str | None, ...]
    potential_energies: Tensor | None = None


@runtime_checkable
class Judge(Protocol):
    """Accepts the leading frames of a segment and says why it rejects the rest.

    One that has a method `after_all(n_kept)` is told how many frames are kept, `(n_replicas,)`,
    when the others have been asked.
    """

    @property
    def name(self) -> str:
        """Short name for logs: "bond lengths", "energy error"."""
        ...

    def judge(self, start: State, segment: Segment) -> Verdict:
        """Look at a segment that followed `start`."""
        ...

    def restart_state(self) -> dict[str, Tensor]:
        """Everything the next verdict depends on besides its arguments; often empty."""
        ...

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave."""
        ...
