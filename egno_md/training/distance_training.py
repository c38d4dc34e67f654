"""Trains a distance network: a quick copy of a potential for one molecule.

The first frames come from the potential's own dynamics, half of it from rotamers. From then on the
network moves the molecule itself, at next to no cost, and the potential only labels where it went:
the network learns what is missing exactly where it would go wrong. `ROUNDS` says how frames and
steps are shared.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from egno_md.bonds import constitution, guess_bonds
from egno_md.bundle import save_bundle
from egno_md.config import TrainConfig
from egno_md.data.frames import DenseFrames, LabelledFrames
from egno_md.data.reference_md import Sampling, sample_frames
from egno_md.data.rotamers import random_rotamers
from egno_md.models.distance_network import DistanceNetwork
from egno_md.models.local_distance_network import LocalDistanceNetwork
from egno_md.models.molecule_parts import fragments_of
from egno_md.models.one_molecule import OneMolecule
from egno_md.propagators.distance_potential import DistancePotential
from egno_md.roles import Potential
from egno_md.state import Molecule, State
from egno_md.training.card import trained_card
from egno_md.training.learning_curve import learning_curve
from egno_md.training.loop import FitResult, fit
from egno_md.training.settings import fit_settings
from egno_md.training.sources import (
    frame_sets,
    open_potential,
    sampling_of,
    start_structure,
    work_folder,
)
from egno_md.units import BOLTZMANN_EV_PER_K

#: Shares of the frames and of the steps in each round.
ROUNDS: Final = ((0.06, 0.1), (0.24, 0.15), (0.3, 0.25), (0.4, 0.5))

#: How long the network's own dynamics runs before its first frame, fs.
OWN_EQUILIBRATION_FS: Final = 500.0

#: Frames above the lowest by more than so many times the energy of equipartition at the highest
#: temperature are left out: torn molecules would rule the loss.
_HIGHEST: Final = 6.0

#: So are frames with a larger force on an atom, eV/Å: in a large molecule two atoms within one
#: another hardly show in the energy.
_LARGEST_FORCE: Final = 30.0

#: Where fewer than this share of the frames are left, the dynamics has failed.
_FEWEST: Final = 0.25

#: Molecules of more atoms, or several, are learned in parts. Alanine dipeptide, 22 atoms, gains by
#: half (docs/quick_potentials.md); of 21 atoms, aspirin, whole is good enough.
WHOLE_ATOMS: Final = 21

_FRAMES_AT_ONCE: Final = 1024

#: A copy that misses more of the forces, %, is hardly fit to propose.
_POOR_PERCENT: Final = 6.0


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Frames of a step, with alike atoms shuffled."""

    positions: Tensor
    energies: Tensor
    forces: Tensor


def train_distance(config: TrainConfig, command: str = "") -> Path:
    """Train a distance network and write its bundle.

    Args:
        config: the job, of kind "distance": a potential and a structure, or files of frames.
        command: the command that asked for it, for the card.

    Returns:
        The folder of the bundle.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the data is of several molecules or periodic, a setting is wrong, or the
            training diverges.
    """
    torch.set_num_threads(config.n_threads)
    began = time.process_time()
    course = _from_potential(config) if config.potential else _from_files(config)
    fits = sum(result.cpu_seconds for result in course.results)
    measures = held_out_errors(course.model, _on(config.device, course.test.dense()))
    _warn_of_a_poor_copy(measures)
    card = trained_card(
        config,
        command,
        model=course.model,
        molecules=[course.constitution],
        data=[course.training],
        test=[course.test],
        counts={
            "n_frames": course.training.n_frames,
            "n_validation": course.validation.n_frames,
            "n_test": course.test.n_frames,
            # A resumed job's frames are read again, not made.
            "sampling_cpu_seconds": max(0, round(time.process_time() - began - fits)),
        },
        results=course.results,
        measures=measures,
        curve=learning_curve(course.folders),
    )
    return save_bundle(Path(config.out), card, course.model.state_dict())


def _warn_of_a_poor_copy(measures: Mapping[str, float]) -> None:
    """Say that a copy is too poor to propose with."""
    missed = measures["force_missed_percent"]
    if missed > _POOR_PERCENT:
        sys.stderr.write(
            f"egno-md: warning: the copy misses {missed:.3g} % of the forces where its own "
            f"dynamics goes; above {_POOR_PERCENT:g} % few proposals are accepted. Give it more "
            "--n-samples and --n-steps, or lower --temperatures-K; large or loose molecules are "
            "beyond it\n"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Course:
    """How a training went, and with what."""

    model: OneMolecule
    constitution: str
    training: LabelledFrames
    validation: LabelledFrames
    test: LabelledFrames
    results: list[FitResult]
    folders: list[Path]


def _from_files(config: TrainConfig) -> _Course:
    """One fit to frames that are there."""
    sets = frame_sets(config)
    for part in (sets.training, sets.validation, sets.test):
        if part.cell is not None or not part.one_molecule:
            raise ValueError(
                f"{part.source}: a distance network is of one molecule without a cell; these "
                "frames have a cell, or several molecules"
            )
    frames = sets.training.dense()
    bonds = guess_bonds(frames.numbers, frames.positions[0])
    model = _network(config, frames.numbers, bonds)
    model.scale_to(frames.positions, frames.energies, frames.forces)
    folder = work_folder(config)
    result = _fit(config, model, sets.training, sets.validation, 1.0, folder)
    name = constitution(frames.numbers, bonds)
    return _Course(model, name, sets.training, sets.validation, sets.test, [result], [folder])


def _from_potential(config: TrainConfig) -> _Course:
    """Rounds of frames that the network asks for, labelled by the potential."""
    potential = open_potential(config.potential[0], config.structure[0])
    start = start_structure(config.structure[0])
    if start.cell is not None or any(start.molecule.pbc):
        raise ValueError("a distance network is of one molecule, without a periodic cell")
    molecule = _with_bonds(start)
    start = State.at_rest(molecule, start.positions.double())
    model = _network(config, molecule.numbers, molecule.bonds)
    labelled, results, folders = _Labelled(config, potential, start), [], []
    for k, (_, of_steps) in enumerate(ROUNDS):
        training, validation = labelled.frames(k, model)
        dense = training.dense()
        if k == 0:
            model.scale_to(dense.positions, dense.energies, dense.forces)
        model.widen_to(dense.positions)
        folders.append(work_folder(config) / f"round-{k}")
        results.append(_fit(config, model, training, validation, of_steps, folders[-1]))
    name = constitution(molecule.numbers, molecule.bonds)
    return _Course(model, name, training, validation, labelled.test(model), results, folders)


class _Labelled:
    """The frames of all rounds so far."""

    def __init__(self, config: TrainConfig, potential: Potential, start: State) -> None:
        self.config, self.potential, self.start = config, potential, start
        self._parts: list[tuple[LabelledFrames, LabelledFrames]] = []
        self._cache = work_folder(config) / "data"

    def frames(self, k: int, model: OneMolecule) -> tuple[LabelledFrames, LabelledFrames]:
        """Training and validation frames of all rounds up to one."""
        config, (share, _) = self.config, ROUNDS[k]
        least = len(config.temperatures_K)
        wanted = [max(least, round(share * n)) for n in (config.n_samples, config.n_validation)]
        frames = self._drawn(model if k else None, sum(wanted), k)
        draw = torch.Generator().manual_seed(1000 * config.seed + k)
        order = torch.randperm(frames.n_frames, generator=draw)
        n_held_out = max(1, frames.n_frames * wanted[1] // sum(wanted))
        held_out, rest = order[:n_held_out], order[n_held_out:]
        self._parts.append((frames.select(rest), frames.select(held_out)))
        training, validation = zip(*self._parts, strict=True)
        return LabelledFrames.join(training), LabelledFrames.join(validation)

    def test(self, model: OneMolecule) -> LabelledFrames:
        """Frames of the finished network's own dynamics."""
        return self._drawn(model, self.config.n_test, len(ROUNDS))

    def _drawn(self, model: OneMolecule | None, n: int, stream: int) -> LabelledFrames:
        """Frames of the network's dynamics, or of the potential's, labelled by the potential."""
        config, how = self.config, sampling_of(self.config, 0)
        how = replace(how, seed=1000 * config.seed + stream)
        if model is None:
            turns = torch.Generator().manual_seed(how.seed)
            begun = random_rotamers(self.start, how.n_replicas, turns)
            return self._sensible(self._sampled(n, how, None, begun))
        own = DistancePotential(model)
        interval_fs = config.own_interval_fs
        how = replace(how, interval_fs=interval_fs, equilibration_fs=OWN_EQUILIBRATION_FS)
        begun = self._begun(how)
        try:
            return self._sensible(self._sampled(n, how, own, begun))
        except ValueError as error:
            sys.stderr.write(
                f"egno-md: the network's own dynamics failed ({error}); these {n} frames come "
                "from the potential's dynamics\n"
            )
            return self._sensible(self._sampled(n, sampling_of(config, 0), None, begun))

    def _sampled(
        self, n: int, how: Sampling, mover: Potential | None, start: State
    ) -> LabelledFrames:
        return sample_frames(
            self.potential,
            start,
            n,
            self.config.temperatures_K,
            sampling=how,
            cache=self._cache,
            mover=mover,
        )

    def _begun(self, how: Sampling) -> State:
        """Where the network's dynamics begins: frames that are known, drawn at random."""
        known = self._parts[-1][0].dense().positions
        draw = torch.Generator().manual_seed(how.seed)
        picks = torch.randint(len(known), (how.n_replicas,), generator=draw)
        return State.at_rest(self.start.molecule, known[picks])

    def _sensible(self, frames: LabelledFrames) -> LabelledFrames:
        """Leave out frames of energies that no thermal motion has."""
        n_atoms = self.start.molecule.n_atoms
        kT = BOLTZMANN_EV_PER_K * max(self.config.temperatures_K)
        lowest = float(self.potential.energies(self.start))
        lowest = min(lowest, float(frames.energies.min()))
        good = frames.energies < lowest + _HIGHEST * 1.5 * n_atoms * kT
        good &= frames.dense().forces.norm(dim=-1).amax(1) < _LARGEST_FORCE
        n, left = frames.n_frames, int(good.sum())
        if left < min(2, n) or left < _FEWEST * n:
            raise ValueError(
                f"{n - left} of {n} frames have energies of more than {_HIGHEST:g} times "
                f"equipartition above the lowest, or a force of more than {_LARGEST_FORCE:g} eV/Å; "
                "start from a relaxed structure"
            )
        return frames.select(good)


def _network(config: TrainConfig, numbers: Tensor, bonds: Tensor) -> OneMolecule:
    """An untrained network of the job's width: of all distances, or of those within parts."""
    what = numbers.tolist(), bonds.tolist()
    whole = len(numbers) <= WHOLE_ATOMS and len(fragments_of(*what).atoms) == 1
    kind = DistanceNetwork if whole else LocalDistanceNetwork
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        n_hidden = config.n_hidden
        model = kind(*what) if n_hidden is None else kind(*what, width=n_hidden)
    return model.to(device=config.device, dtype=getattr(torch, config.dtype))


def _with_bonds(start: State) -> Molecule:
    """The molecule with the bonds that its geometry suggests, where it has none."""
    molecule = start.molecule
    if len(molecule.bonds):
        return molecule
    bonds = guess_bonds(molecule.numbers, start.positions[0], cell=None, pbc=molecule.pbc)
    return replace(molecule, bonds=bonds)


def _fit(
    config: TrainConfig,
    model: OneMolecule,
    training: LabelledFrames,
    validation: LabelledFrames,
    share: float,
    folder: Path,
) -> FitResult:
    """Fit the network to frames, for a share of the job's steps."""
    steps = max(1, round(share * config.n_steps))
    settings = replace(
        fit_settings(config),
        steps=steps,
        warmup_steps=min(config.warmup_steps, steps // 10),
        validate_every=min(config.validate_every, steps),
        cpu_minutes=None if config.cpu_minutes is None else share * config.cpu_minutes,
    )
    frames, held_out = (_on(config.device, part.dense()) for part in (training, validation))
    rms = float(frames.forces.square().mean().sqrt())

    def sample(step: int, draw: torch.Generator) -> _Batch:
        rows = torch.randint(training.n_frames, (settings.batch_size,), generator=draw)
        atoms = model.shuffled(len(rows), draw)
        at = rows[:, None]
        return _Batch(frames.positions[at, atoms], frames.energies[rows], frames.forces[at, atoms])

    def loss(network: nn.Module, batch: _Batch) -> tuple[Tensor, dict[str, Tensor]]:
        energies, forces = network(batch.positions)
        of_forces = (forces - batch.forces).square().mean()
        of_energies = (energies - batch.energies).square().mean()
        # The weight is per Å^2.
        total = (config.force_weight * of_forces + config.energy_weight * of_energies) / rms**2
        return total, {"force_rmse_eV_per_A": of_forces.detach().sqrt()}

    def validate(network: nn.Module) -> dict[str, float]:
        found = held_out_errors(network, held_out)
        return {"score": found["force_rmse_meV_per_A"]} | found

    return fit(
        model,
        sample,
        loss,
        validate,
        settings,
        folder,
        resume=config.resume,
        description="distance",
    )


def _on(device: str, frames: DenseFrames) -> DenseFrames:
    """Frames where the network computes."""
    names = ("positions", "energies", "forces")
    return replace(frames, **{name: getattr(frames, name).to(device) for name in names})


@torch.no_grad()
def held_out_errors(network: nn.Module, frames: DenseFrames) -> dict[str, float]:
    """Errors of energies and forces.

    Args:
        network: of distances.
        frames: labelled, of its molecule.

    Returns:
        Mean absolute and root mean square errors of forces, meV/Å; the share of the force that is
        missed, %; the spread of the energy's error, meV.
    """
    parts = [network(x) for x in torch.split(frames.positions, _FRAMES_AT_ONCE)]
    energies = torch.cat([part[0] for part in parts])
    forces = torch.cat([part[1] for part in parts])
    off = forces - frames.forces
    return {
        "force_mae_meV_per_A": 1e3 * float(off.abs().mean()),
        "force_rmse_meV_per_A": 1e3 * float(off.square().mean().sqrt()),
        "force_missed_percent": 100.0 * float(off.norm() / frames.forces.norm()),
        "energy_spread_meV": 1e3 * float((energies - frames.energies).std(correction=0)),
    }
