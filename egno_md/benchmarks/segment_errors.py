"""How far the segments of any propagator are from true ones, as cards have it."""

from __future__ import annotations

import torch
from torch import Tensor

from egno_md.data.windows import Windows
from egno_md.propagators.total_energy import total_energies
from egno_md.roles import Potential, Propagator
from egno_md.state import State, kinetic_energy
from egno_md.units import KJ_PER_MOL

#: Windows moved at once.
_WINDOWS_AT_ONCE = 256


def segment_errors(
    propagator: Propagator, potential: Potential, windows: Windows
) -> dict[str, float]:
    """Compare chained segments with the frames of windows.

    Args:
        propagator: its frames are those of the windows.
        potential: the true one, for the total energy.
        windows: at constant energy.

    Returns:
        For every frame, with its time in the name: the error of positions over the displacement
        and of velocities over their change (root mean squares), mean and standard error of the
        error of the kinetic energy, kJ/mol, and the root mean square error of the true total
        energy, meV per atom.

    Raises:
        ValueError: if the windows have other frames than the propagator.
    """
    interval = propagator.frame_interval_fs
    grid = interval * torch.arange(1, windows.n_frames + 1, dtype=torch.float64)
    if not torch.allclose(windows.times_fs, grid):
        raise ValueError(
            f"the windows have frames at {windows.times_fs.tolist()} fs; the propagator gives one "
            f"every {interval:g} fs"
        )
    molecule, starts = windows.molecule, windows.starts()
    segments = [propagator.advance(starts.replica(p), windows.n_frames) for p in _parts(starts)]
    x = torch.cat([s.positions for s in segments]).double()
    v = torch.cat([s.velocities for s in segments]).double()
    start_eV = _total_eV(potential, starts)
    found: dict[str, float] = {}
    for k in range(windows.n_frames):
        at = f"{(k + 1) * interval:g}fs"
        true_x, true_v = windows.positions[:, k], windows.velocities[:, k]
        moved, turned = true_x - windows.positions0, true_v - windows.velocities0
        kinetic = kinetic_energy(molecule, v[:, k]) - kinetic_energy(molecule, true_v)
        kinetic = kinetic / KJ_PER_MOL
        total = torch.full_like(kinetic, float("nan"))
        if bool(torch.isfinite(x[:, k]).all()) and bool(torch.isfinite(v[:, k]).all()):
            total = _total_eV(potential, State(molecule, x[:, k], v[:, k])) - start_eV
        found[f"x_error_{at}"] = float((x[:, k] - true_x).norm() / moved.norm())
        found[f"v_error_{at}"] = float((v[:, k] - true_v).norm() / turned.norm())
        found[f"kinetic_mean_{at}"] = float(kinetic.mean())
        found[f"kinetic_mean_error_{at}"] = float(kinetic.std() / windows.n_windows**0.5)
        found[f"energy_meV_{at}"] = 1000.0 * float(total.square().mean().sqrt()) / molecule.n_atoms
    return found


def _parts(state: State) -> tuple[Tensor, ...]:
    """Numbers of the replicas, a few hundred at a time."""
    return torch.split(torch.arange(state.n_replicas), _WINDOWS_AT_ONCE)


def _total_eV(potential: Potential, state: State) -> Tensor:
    return torch.cat([total_energies(potential, state.replica(part)) for part in _parts(state)])
