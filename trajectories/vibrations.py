"""Vibrational density of states: at which frequencies a molecule moves.

The spectrum of mass-weighted velocities, by averaging periodograms of overlapping windows
(Welch, IEEE Trans. Audio Electroacoust. 15, 70 (1967), doi:10.1109/TAU.1967.1161901):

    S(f) = sum over atoms i, axes a of m_i |sum over frames k of w_k v_ia(t_k) exp(-2 pi i f t_k)|^2

| symbol | variable |
|---|---|
| v | `velocities`, Å/fs |
| w | `_taper`, a Hann window |
| S | `vdos_power`, one spectrum per replica, any unit |
| f | `vdos_frequency_per_cm`, wave numbers f/c |

By the theorem of Wiener and Khinchin this is the Fourier transform of the mass-weighted velocity
autocorrelation function. Frequencies above half the frame rate are folded back, so spectra are
compared only at one frame interval, and a bath broadens lines by its friction, so only at one
friction.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from egno_md.state import Molecule
from egno_md.trajectories.divergence import density_difference

#: Length of a window: lines are told apart that lie 2 / 2 ps = 33 cm^-1 apart.
WINDOW_FS: Final = 2000.0

#: Speed of light, cm/fs.
_LIGHT_CM_PER_FS: Final = 2.99792458e-5


def window_frames(n_frames: int, frame_interval_fs: float, window_fs: float = WINDOW_FS) -> int:
    """Frames of a window: as many as its length holds, but no more than there are.

    Args:
        n_frames: frames of the shortest run that will be compared.
        frame_interval_fs: time between them.
        window_fs: length of a window.

    Raises:
        ValueError: if there are fewer than 4 frames, which have no spectrum to speak of.
    """
    if n_frames < 4:
        raise ValueError(f"a spectrum needs at least 4 frames, got {n_frames}")
    return max(4, min(n_frames, round(window_fs / frame_interval_fs)))


class VibrationCounter:
    """Adds up spectra as frames come, so that no trajectory need fit into memory."""

    def __init__(
        self, molecule: Molecule, *, n_replicas: int, frame_interval_fs: float, n_window: int
    ) -> None:
        """Start counting.

        Args:
            molecule: gives the masses.
            n_replicas: replicas of every chunk.
            frame_interval_fs: time between frames.
            n_window: frames of a window, see `window_frames`; windows overlap by half.

        Raises:
            ValueError: if a window has fewer than 4 frames or the interval is not positive.
        """
        if n_window < 4:
            raise ValueError(f"n_window is {n_window}; a window has at least 4 frames")
        if not 0 < frame_interval_fs < float("inf"):
            raise ValueError(f"frame_interval_fs must be positive, got {frame_interval_fs}")
        self.masses = molecule.masses
        self.n_window = n_window
        self.frame_interval_fs = frame_interval_fs
        self._taper = torch.hann_window(n_window, periodic=True, dtype=torch.float64)
        self._power = torch.zeros((n_replicas, n_window // 2 + 1), dtype=torch.float64)
        self._windows = torch.zeros(n_replicas, dtype=torch.int64)
        self._held = torch.zeros((n_replicas, 0, molecule.n_atoms, 3), dtype=torch.float64)

    def add(self, velocities: Tensor) -> None:
        """Count the frames that follow those counted so far.

        A window with a number that is not finite is left out for its replica.

        Args:
            velocities: `(n_replicas, n, n_atoms, 3)`, Å/fs.
        """
        held = torch.cat([self._held, velocities.detach().to("cpu", torch.float64)], 1)
        hop = self.n_window // 2
        while held.shape[1] >= self.n_window:
            self._count(held[:, : self.n_window])
            held = held[:, hop:]
        self._held = held

    def _count(self, window: Tensor) -> None:
        good = torch.isfinite(window).flatten(1).all(1)
        if not bool(good.any()):
            return
        spectrum = torch.fft.rfft(window[good] * self._taper[:, None, None], dim=1)
        power = spectrum.abs().square().sum(-1) @ self.masses
        self._power[good] += power
        self._windows[good] += 1

    def result(self) -> dict[str, Tensor]:
        """Return the spectra.

        Returns:
            `vdos_frequency_per_cm (n_bins,)`, `vdos_power (n_replicas, n_bins)`, sums over the
            windows, and `vdos_windows (n_replicas,)`, how many these were.
        """
        frequency = torch.fft.rfftfreq(self.n_window, self.frame_interval_fs, dtype=torch.float64)
        return {
            "vdos_frequency_per_cm": frequency / _LIGHT_CM_PER_FS,
            "vdos_power": self._power.clone(),
            "vdos_windows": self._windows.clone(),
        }


def spectral_overlap(first: Tensor, second: Tensor) -> Tensor:
    """Common area of two spectra that are each normalised to one: integral of min(p, q).

    Args:
        first: `(..., n_bins)`, any unit.
        second: `(..., n_bins)` at the same frequencies.

    Returns:
        `(...)` float64: 1 for equal spectra, 0 where nothing is shared.

    Raises:
        ValueError: if a spectrum is empty, negative or not finite, or the bins differ.
    """
    # min(p, q) = (p + q - |p - q|) / 2, and p and q sum to one.
    return 1.0 - spectral_gap(first, second)


def spectral_gap(first: Tensor, second: Tensor) -> Tensor:
    """One minus the overlap: a measure that is 0 for equal spectra, for `sampling_floor`.

    Args:
        first: `(..., n_bins)`, any unit.
        second: `(..., n_bins)` at the same frequencies.

    Returns:
        `(...)` float64.

    Raises:
        ValueError: as `spectral_overlap` does.
    """
    return 0.5 * density_difference(first, second)
