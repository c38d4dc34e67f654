"""Ways to damage a run on purpose: other weights, another temperature, another geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from egno_md.bundle import Bundle, build_model
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.propagators.energy_frames import EnergyFrames
from egno_md.propagators.learned import LearnedPropagator
from egno_md.state import Molecule, State, maxwell_boltzmann


@dataclass(frozen=True, slots=True)
class Case:
    """One way to damage a run.

    Attributes:
        what: in words.
        noise: noise on every weight, as a share of the spread of its tensor.
        start_K: temperature of the start velocities; that of the equilibrated start when None.
        bath_K: temperature of the bath and of its judge; the run's when None.
        stretch_A: how far the O-H bond is pulled out at the start.
        isomer: whether the atoms are dimethyl ether instead.
        energy_frames: frames whose energy is asked: "all", "auto" as by default, or "last".
    """

    what: str
    noise: float = 0.0
    start_K: float | None = None
    bath_K: float | None = None
    stretch_A: float = 0.0
    isomer: bool = False
    energy_frames: EnergyFrames = "all"


CASES: Final = {
    "healthy": Case("as shipped"),
    "healthy-auto": Case("as shipped, energies asked as by default", energy_frames="auto"),
    "noise-0.3": Case("weights off by 0.3 %", noise=0.003),
    "noise-1": Case("weights off by 1 %", noise=0.01),
    "noise-2": Case("weights off by 2 %", noise=0.02),
    "noise-2-ends": Case(
        "weights off by 2 %, energies at the ends only", noise=0.02, energy_frames="last"
    ),
    "noise-2-auto": Case(
        "weights off by 2 %, energies asked as by default", noise=0.02, energy_frames="auto"
    ),
    "noise-5": Case("weights off by 5 %", noise=0.05),
    "hot-start": Case("start velocities of 900 K", start_K=900.0),
    "hot-bath": Case("bath of 900 K, limits of 300 K", start_K=900.0, bath_K=900.0),
    "stretched": Case("O-H stretched by 0.4 Å at the start", stretch_A=0.4),
    "isomer": Case("dimethyl ether", isomer=True),
}

#: Dimethyl ether, staggered: bonds of 1.41 (C-O) and 1.09 Å (C-H), angles of 112 and 109.5 degrees.
_ETHER_NUMBERS = (8, 6, 6, 1, 1, 1, 1, 1, 1)
_ETHER_BONDS = ((0, 1), (0, 2), (1, 3), (1, 4), (1, 5), (2, 6), (2, 7), (2, 8))


def damaged_network(
    bundle: Bundle,
    molecule: Molecule,
    noise: float,
    seed: int,
    n_frames: int,
    *,
    compiled: bool = False,
) -> LearnedPropagator:
    """Build a bundle's network and add noise to its weights.

    Args:
        bundle: of kind egno.
        molecule: what will move.
        noise: standard deviation, as a share of that of each tensor.
        seed: seed of the noise.
        n_frames: frames of a segment.
        compiled: whether it is compiled.

    Raises:
        ValueError: if the bundle holds another network, or the molecule does not suit it.
    """
    model = build_model(bundle)
    if not isinstance(model, HamiltonianEGNO):
        raise ValueError(f"bundle {bundle.name} holds a {type(model).__name__}, no propagator")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.numel() > 1 and noise > 0.0:
                draw = torch.randn(weights.shape, generator=generator, dtype=torch.float64)
                weights.add_((noise * weights.std() * draw).to(weights))
    return LearnedPropagator(model, molecule, n_frames=n_frames, compile=compiled)


def start_of(case: Case, equilibrated: State, seed: int) -> State:
    """The start of a case.

    Args:
        case: the damage.
        equilibrated: good starts of ethanol, a replica each.
        seed: seed of velocities, where they are drawn.
    """
    n, molecule = equilibrated.n_replicas, equilibrated.molecule
    generator = torch.Generator().manual_seed(seed)
    if case.isomer:
        ether = Molecule.from_numbers(_ETHER_NUMBERS, bonds=_ETHER_BONDS)
        x = _ether_positions().expand(n, -1, -1).clone()
        return State(ether, x, maxwell_boltzmann(ether, n, 300.0, generator))
    x, v = equilibrated.positions.clone(), equilibrated.velocities
    if case.stretch_A:
        oxygen, hydrogen = _hydroxyl(molecule)
        arrow = x[:, hydrogen] - x[:, oxygen]
        x[:, hydrogen] += case.stretch_A * arrow / arrow.norm(dim=-1, keepdim=True)
    if case.start_K is not None:
        v = maxwell_boltzmann(molecule, n, case.start_K, generator).to(v)
    return equilibrated.with_(positions=x, velocities=v, time_fs=0.0)


def _hydroxyl(molecule: Molecule) -> tuple[int, int]:
    """Atoms of the O-H bond, oxygen first."""
    for i, j in molecule.bonds.tolist():
        if {int(molecule.numbers[i]), int(molecule.numbers[j])} == {1, 8}:
            return (i, j) if int(molecule.numbers[i]) == 8 else (j, i)
    raise ValueError("the molecule has no O-H bond to stretch")


def _ether_positions() -> Tensor:
    """`(9, 3)` Å, the oxygen at the origin."""
    half, tilt = torch.deg2rad(torch.tensor([56.0, 70.5], dtype=torch.float64))
    atoms = [torch.zeros(3, dtype=torch.float64)]
    hydrogens = []
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    for side in (1.0, -1.0):
        out = torch.stack([side * half.sin(), half.cos(), torch.zeros_like(half)])
        across = torch.linalg.cross(up, out)
        atoms.append(1.41 * out)
        for turn in (0.0, 120.0, 240.0):
            angle = torch.deg2rad(torch.tensor(turn + 90.0 * side, dtype=torch.float64))
            ring = angle.cos() * up + angle.sin() * across
            hydrogens.append(1.41 * out + 1.09 * (tilt.cos() * out + tilt.sin() * ring))
    return torch.stack(atoms + hydrogens)
