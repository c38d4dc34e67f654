"""From what a user names to the parts of a segment driver: propagator, guard, bath."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.md.logger import MDLogger
from torch import Tensor

from egno_md.ase_atoms import molecule_from_atoms, refuse_charge_and_spin, state_from_atoms
from egno_md.bonds import guess_bonds
from egno_md.bundle import Bundle, load_bundle
from egno_md.calculators.escn_calculator import ESCNCalculator
from egno_md.calculators.evaluation_options import checked_device, checked_dtype
from egno_md.calculators.potential_calculator import PotentialCalculator
from egno_md.calculators.potential_from_ase import ASEPotential
from egno_md.propagators.classical import OrnsteinUhlenbeck, VelocityVerlet
from egno_md.propagators.distance_potential import DistancePotential
from egno_md.propagators.energy_frames import EnergyFrames
from egno_md.propagators.energy_judge import EnergyJudge
from egno_md.propagators.guarded import GuardedPropagator
from egno_md.propagators.learned import LearnedPropagator
from egno_md.propagators.potential_bundles import POTENTIAL_KINDS
from egno_md.propagators.velocity_baths import Collisions, StochasticRescaling, VelocityBath
from egno_md.roles import Judge, Potential, Propagator
from egno_md.state import Molecule, State

#: Coupling of a bath where nothing is said, 1/ps.
USUAL_COUPLING_PER_PS: Final = 10.0

#: A model that makes segments, in any of the ways it may be given.
Maker = str | Path | Bundle | Propagator

#: A model that gives energies, in any of the ways it may be given.
Guard = str | Path | Bundle | BaseCalculator | Potential

#: Baths between segments.
Thermostat = Literal["langevin", "bussi", "andersen"]


def checked_start(atoms: Atoms, bonds: Sequence[tuple[int, int]] | Tensor | None) -> State:
    """Return the state at the start, its molecule with bonds.

    Args:
        atoms: what will move.
        bonds: pairs of atoms; guessed from the positions when None.

    Raises:
        ValueError: if the atoms cannot be moved.
    """
    try:
        refuse_charge_and_spin(atoms)
        state = state_from_atoms(atoms, molecule_from_atoms(atoms))
    except ValueError as error:
        raise ValueError(f"these atoms cannot be moved: {error}") from None
    return state.with_(molecule=bonded(state, bonds))


def bonded(state: State, bonds: Sequence[tuple[int, int]] | Tensor | None) -> Molecule:
    """Return the molecule of a state with bonds.

    Args:
        state: one replica.
        bonds: pairs of atoms; guessed from the positions when None.

    Raises:
        ValueError: if the pairs are no pairs of atoms.
    """
    if bonds is not None:
        return replace(state.molecule, bonds=bond_list(bonds))
    cell = None if state.cell is None else state.cell[0]
    known = state.molecule
    found = guess_bonds(known.numbers, state.positions[0], cell=cell, pbc=known.pbc)
    return replace(known, bonds=found)


def learned_or_given(
    maker: Maker,
    molecule: Molecule,
    *,
    horizon_fs: float | None,
    device: str,
    dtype: str | torch.dtype | None,
) -> Propagator:
    """Return the propagator meant.

    Args:
        maker: a bundle of kind "egno", by name, folder or as it was read; or a propagator.
        molecule: what will move, with bonds.
        horizon_fs: length of a segment of a bundle; its own when None.
        device: where a bundle computes.
        dtype: float32 or float64 for a bundle; float32 when None.

    Raises:
        FileNotFoundError: if there is no such bundle.
        ValueError: if it does not suit the molecule, or horizon, device or dtype are given with
            a propagator, which has its own.
    """
    if isinstance(maker, str | Path | Bundle):
        bundle = maker if isinstance(maker, Bundle) else load_bundle(maker, kind="egno")
        bundle.check_elements(molecule)
        kind = checked_dtype(dtype) or torch.float32
        where = str(checked_device(device))
        return LearnedPropagator.from_bundle(
            bundle, molecule, horizon_fs=horizon_fs, device=where, dtype=kind
        )
    for name, value, usual in (
        ("horizon_fs", horizon_fs, None),
        ("device", device, "cpu"),
        ("dtype", dtype, None),
    ):
        if value != usual:
            raise ValueError(
                f"{name} = {value!r} goes with a bundle; this {type(maker).__name__} has its own"
            )
    if not isinstance(maker, Propagator):
        raise ValueError(
            f"a propagator or the name of a bundle is needed, got {type(maker).__name__}"
        )
    return maker


def potential_behind(guard: Guard) -> tuple[Potential, BaseCalculator]:
    """Return the potential meant, and the calculator that shows its energies to ASE.

    Args:
        guard: a bundle of kind "escn" or "distance", an ASE calculator, or a potential.

    Raises:
        FileNotFoundError: if there is no such bundle.
        ValueError: if it is none of these.

    Warns:
        UserWarning: if it is a quick copy of a potential, which is not to be trusted alone.
    """
    if isinstance(guard, str | Path | Bundle):
        guard = _of_bundle(guard)
    if isinstance(guard, PotentialCalculator):
        return guard.potential, guard
    if isinstance(guard, BaseCalculator):
        return ASEPotential(guard), guard
    if isinstance(guard, Potential):
        return guard, PotentialCalculator(guard)
    raise ValueError(
        f"a calculator, a potential or the name of a bundle is needed, got {type(guard).__name__}"
    )


def _of_bundle(guard: str | Path | Bundle) -> PotentialCalculator:
    """The calculator of a potential's bundle."""
    read = guard if isinstance(guard, Bundle) else load_bundle(guard, kind=POTENTIAL_KINDS)
    if read.card.kind != "distance":
        return ESCNCalculator(read)
    warnings.warn(
        f"the guard, {read.name!r}, is a quick copy of a potential: it is right only near the "
        "shapes it was trained on, and nothing here checks it; take the potential that it copies",
        stacklevel=4,
    )
    return PotentialCalculator(DistancePotential(read))


def guarded(
    fast: Propagator,
    potential: Potential,
    *,
    energy_limit_eV: float | None,
    energy_frames: EnergyFrames,
    judges: Sequence[Judge],
    fallback: Propagator | None,
    fallback_timestep_fs: float,
    segments_per_proposal: int,
    recover_after: int | None,
) -> GuardedPropagator:
    """Put judges and a fallback behind a propagator.

    Args:
        fast: makes the segments.
        potential: behind the judge of the energy and the usual fallback.
        energy_limit_eV: largest change of the total energy over a segment; None: not judged.
        energy_frames: frames whose energy is asked for, see `EnergyJudge`.
        judges: others, asked first.
        fallback: makes what is rejected again; velocity Verlet with the potential when None.
        fallback_timestep_fs: longest step of that velocity Verlet.
        segments_per_proposal: segments that are judged together, see `GuardedPropagator`.
        recover_after: accepted proposals that undo the halving by a rejection; None: no halving.

    Raises:
        ValueError: if a number is not positive, the frame intervals differ, or the propagator has
            a bath of its own.
    """
    if fallback is None:
        if not 0.0 < fallback_timestep_fs < float("inf"):
            raise ValueError(f"fallback_timestep_fs is {fallback_timestep_fs}; it must be positive")
        interval = fast.frame_interval_fs
        steps = math.ceil(interval / fallback_timestep_fs - 1e-9)
        fallback = VelocityVerlet(potential, interval / steps, interval, fast.n_frames)
    asked = list(judges)
    if energy_limit_eV is not None:
        asked.append(EnergyJudge(potential, energy_limit_eV, frames=energy_frames))
    return GuardedPropagator(
        fast,
        fallback,
        asked,
        segments_per_proposal=segments_per_proposal,
        recover_after=recover_after,
    )


def refuse_unguarded(options: Mapping[str, object], driver: Callable[..., object]) -> None:
    """Refuse what does nothing without a guard.

    Args:
        options: of `guarded`, as they were given.
        driver: what they were given to; its signature says what is usual.

    Raises:
        ValueError: naming the first that is not as usual.
    """
    usual = inspect.signature(driver).parameters
    for name, value in options.items():
        if value is not None and value != usual[name].default:
            raise ValueError(f"{name} goes with a guard: give guard=, too, or leave {name} out")


def bath_between(
    thermostat: Thermostat | None,
    temperature_K: float | None,
    coupling_per_ps: float,
    seed: int | torch.Generator,
    degrees_of_freedom: int,
) -> VelocityBath | None:
    """Return what acts on the velocities between segments, or None at constant energy.

    Args:
        thermostat: its name.
        temperature_K: temperature of the bath.
        coupling_per_ps: friction of Langevin, 1/tau of Bussi, collisions per atom of Andersen.
        seed: of the bath's noise, or a generator.
        degrees_of_freedom: those that share the kinetic energy.

    Raises:
        ValueError: for an unknown name, one without a temperature, or a number out of range.
    """
    if temperature_K is None:
        if thermostat is not None:
            raise ValueError(f"thermostat {thermostat!r} needs temperature_K; give both or none")
        if coupling_per_ps != USUAL_COUPLING_PER_PS:
            raise ValueError(
                f"coupling_per_ps = {coupling_per_ps:g} needs temperature_K; without, there is no "
                "bath"
            )
        return None
    noise = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    if thermostat in (None, "langevin"):
        return OrnsteinUhlenbeck(temperature_K, coupling_per_ps, noise)
    if thermostat == "bussi":
        return StochasticRescaling(temperature_K, coupling_per_ps, degrees_of_freedom, noise)
    if thermostat == "andersen":
        return Collisions(temperature_K, coupling_per_ps, noise)
    raise ValueError(
        f"thermostat is {thermostat!r}; allowed are 'langevin', 'bussi' and 'andersen', or no "
        "temperature_K for constant energy"
    )


def bond_list(bonds: Sequence[tuple[int, int]] | Tensor) -> Tensor:
    """Return bonds as a molecule wants them, `(n_bonds, 2)`, pairs i < j, sorted."""
    pairs = torch.as_tensor(bonds, dtype=torch.int64).reshape(-1, 2)
    ordered: Tensor = torch.unique(pairs.sort(1).values, dim=0)
    return ordered


class LoggerWithoutEnergies(MDLogger):
    """ASE's logger, that also works without a calculator."""

    def _potential_energy(self) -> float:
        return float("nan") if self.atoms.calc is None else float(super()._potential_energy())  # type: ignore[no-untyped-call]


def own_copy(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU in float64 that nobody else has.

    Args:
        tensor: of any shape, dtype and device.
    """
    return tensor.detach().to("cpu", torch.float64, copy=True)
