"""An eSCN potential as TorchScript, for engines that run it without Python.

The published recipe looks for neighbours anew at every step, which TorchScript cannot. Here every
atom sees every other; a pair beyond the cutoff contributes exactly nothing, so energy and forces
are the same. In a periodic cell every pair is taken at its nearest image, which is right as long
as the cell is at least two cutoffs thick; a thinner one is an error at run time.

| symbol | variable |
|---|---|
| image of a pair, r - round(r H^-1) H | `arrows`, H the rows of `cell` |
| thickness of the cell along vector k, 1 / norm of column k of H^-1 | `thick` |
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from egno_md.models.escn_md import ESCNMD
from egno_md.models.neighbours import COINCIDENT_A
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.units import KJ_PER_MOL, NM_PER_A

#: All pairs are worked on, so more atoms than this take too long and too much memory.
MOST_ATOMS: Final = 200


class _AllPairs(nn.Module):
    """Energy of one system from its positions and the shifts of its pairs."""

    def __init__(self, model: ESCNMD, numbers: Tensor, pairs: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("numbers", numbers)
        self.register_buffer("pairs", pairs)
        self.register_buffer("batch", torch.zeros_like(numbers))
        self.numbers: Tensor
        self.pairs: Tensor
        self.batch: Tensor

    def forward(self, places: Tensor, shifts: Tensor) -> Tensor:
        """Return the energy, `(1,)` float64, eV.

        Args:
            places: `(n, 3)`, Å.
            shifts: `(n_pairs, 3)`, Å.
        """
        energy: Tensor = self.model(places, self.numbers, self.pairs, shifts, self.batch, 1)
        return energy


class TorchScriptEnergy(nn.Module):
    """Energy and forces in OpenMM's units; only what TorchScript understands."""

    def __init__(
        self,
        core: nn.Module,
        pairs: Tensor,
        rows: Tensor,
        cutoff_A: float,
        flags: tuple[bool, bool],
    ) -> None:
        """Take the parts.

        Args:
            core: traced, from positions and shifts to the energy.
            pairs: `(2, n_pairs)` int64, source and target.
            rows: `(n,)` int64, which particles the atoms are; empty: all.
            cutoff_A: reach of the model, Å.
            flags: whether the cell is periodic, whether there is a parameter that scales.
        """
        super().__init__()
        self.core = core
        self.register_buffer("source", pairs[0].clone())
        self.register_buffer("target", pairs[1].clone())
        self.register_buffer("rows", rows)
        self.source: Tensor
        self.target: Tensor
        self.rows: Tensor
        self.cutoff_A = cutoff_A
        self.closest_A = COINCIDENT_A
        self.length, self.energy_unit = 1.0 / NM_PER_A, 1.0 / KJ_PER_MOL
        self.periodic, self.scaled = flags

    def forward(
        self, positions: Tensor, first: Tensor | None = None, second: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return energy and forces.

        Args:
            positions: `(n_particles, 3)`, nm.
            first: the box `(3, 3)`, nm, if periodic, else the scale if there is one.
            second: the scale if there is one and the box comes first.

        Returns:
            Energy, scalar, kJ/mol; forces `(n_particles, 3)`, kJ/mol/nm.
        """
        scale = second if self.periodic else first
        # TorchScript has no enable_grad to be left again by itself, and freezing takes detach out.
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        given = positions.to(self.source.device, torch.float64)
        chosen = given if self.rows.shape[0] == 0 else given.index_select(0, self.rows)
        places = chosen * self.length
        torch.set_grad_enabled(before)
        shifts = self.shifts(places, first)  # may raise
        torch.set_grad_enabled(True)
        places.requires_grad_(True)
        energy = self.core(places, shifts).sum()
        slope = torch.autograd.grad([energy], [places], allow_unused=True)[0]
        torch.set_grad_enabled(False)
        forces = torch.zeros_like(given)
        if slope is not None:
            mine = -slope * (self.length * self.energy_unit)
            forces = mine if self.rows.shape[0] == 0 else forces.index_copy(0, self.rows, mine)
        energy = energy * self.energy_unit
        if self.scaled and scale is not None:
            energy, forces = energy * scale, forces * scale
        torch.set_grad_enabled(before)
        if not (bool(torch.isfinite(energy)) and bool(torch.isfinite(forces).all())):
            raise ValueError("energy or forces came out not finite")
        return energy, forces.to(positions.device, positions.dtype)

    def shifts(self, places: Tensor, box: Tensor | None) -> Tensor:
        """What to add to the source of every pair, `(n_pairs, 3)` Å; checks what must hold."""
        arrows = places.index_select(0, self.source) - places.index_select(0, self.target)
        shifts = torch.zeros_like(arrows)
        if self.periodic and box is not None:
            cell = box.to(places.device, places.dtype) * self.length
            inverse = torch.linalg.inv(cell)
            thick = 1.0 / inverse.square().sum(0).sqrt()
            if not bool((thick >= 2.0 * self.cutoff_A).all()):
                raise ValueError("the box is thinner than two cutoffs; take backend='python'")
            shifts = -torch.round(arrows @ inverse) @ cell
        distances = (arrows + shifts).square().sum(1)
        if bool((distances < self.closest_A**2).any()):
            raise ValueError("two atoms are in one place")
        return shifts


def as_torchscript(
    potential: object,
    numbers: Sequence[int],
    particles: Sequence[int] = (),
    periodic: bool = False,
    scaled: bool = False,
) -> Any:  # noqa: ANN401
    """Write a potential as a TorchScript module in OpenMM's units.

    Args:
        potential: an `ESCNPotential`.
        numbers: atomic numbers of the atoms it acts on.
        particles: which particles they are; empty: all.
        periodic: whether a box follows the positions.
        scaled: whether a factor comes last.

    Returns:
        The `ScriptModule`: positions `(n, 3)` nm [, box `(3, 3)` nm] [, factor] to energy and
        forces in kJ/mol and kJ/mol/nm.

    Raises:
        ValueError: for another kind of potential, or too many atoms.
    """
    if not isinstance(potential, ESCNPotential):
        raise ValueError(
            f"only an ESCNPotential can be written as TorchScript, got {type(potential).__name__}; "
            "take backend='python'"
        )
    if len(numbers) > MOST_ATOMS:
        raise ValueError(
            f"{len(numbers)} atoms are too many for TorchScript, which works on all pairs (at most "
            f"{MOST_ATOMS}); take backend='python'"
        )
    model = copy.deepcopy(potential.model)
    # One block that keeps what a gradient needs: how many edges there are never changes.
    model.edges_at_once, model.kept_bytes = len(numbers) ** 2 + 1, 2**62
    home = potential.device
    pairs = _all_pairs(len(numbers)).to(home)
    core = _AllPairs(model, torch.tensor(numbers, dtype=torch.int64, device=home), pairs).eval()
    places = 2.0 * _lattice(len(numbers)).to(home)
    with warnings.catch_warnings(), torch.enable_grad():
        # torch calls TorchScript deprecated, and warns of sizes that become constants.
        warnings.simplefilter("ignore")
        shifts = torch.zeros((pairs.shape[1], 3), dtype=places.dtype, device=home)
        trace = torch.jit.trace(core, (places, shifts), check_trace=False)  # type: ignore[no-untyped-call]
        rows = torch.tensor(list(particles), dtype=torch.int64, device=home)
        whole = TorchScriptEnergy(trace, pairs, rows, model.cutoff_A, (periodic, scaled))
        return torch.jit.script(whole.eval())


def _all_pairs(n: int) -> Tensor:
    """Source and target of all ordered pairs, sorted by target, `(2, n (n - 1))`."""
    target, source = (~torch.eye(n, dtype=torch.bool)).nonzero(as_tuple=True)
    return torch.stack((source, target))


def _lattice(n: int) -> Tensor:
    """Different points to trace with, `(n, 3)`."""
    side = range(int(n ** (1 / 3)) + 2)
    points = torch.cartesian_prod(*[torch.tensor(list(side), dtype=torch.float64)] * 3)
    return points[:n]
