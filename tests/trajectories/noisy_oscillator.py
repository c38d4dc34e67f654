"""A cheap propagator with noise, for tests of stores and runs; also a program to be killed.

python noisy_oscillator.py STORE LENGTH_PS FLUSH_S [SLEEP_S]
"""

import sys
import time
from pathlib import Path

import torch

from egno_md.segment import Event, MadeBy, Segment
from egno_md.state import Molecule, State

INTERVAL_FS = 1.0


class NoisyOscillator:
    """Atoms on springs, kicked at random: every segment depends on state and generator."""

    frame_interval_fs = INTERVAL_FS
    reversible = False
    volume_preserving = False

    def __init__(self, n_frames=8, seed=1, sleep_s=0.0, fail_at_fs=None, hook=None):
        self.n_frames = n_frames
        self.generator = torch.Generator().manual_seed(seed)
        self.sleep_s = sleep_s
        self.fail_at_fs = fail_at_fs
        self.hook = hook
        self.n_segments = 0

    def advance(self, state, n_frames=None):
        n = self.n_frames if n_frames is None else n_frames
        x, v = state.positions, state.velocities
        xs, vs, times = [], [], []
        for k in range(n):
            noise = torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
            v = 0.99 * v - 0.05 * x + 0.01 * noise
            x = x + 0.1 * v
            time_fs = state.time_fs + (k + 1) * INTERVAL_FS
            if self.fail_at_fs is not None and time_fs >= self.fail_at_fs:
                x = x * float("nan")
            xs.append(x)
            vs.append(v)
            times.append(time_fs)
        time.sleep(self.sleep_s)
        self.n_segments += 1
        if self.hook is not None:
            self.hook(self.n_segments)
        made_by = torch.full((state.n_replicas, n), int(MadeBy.NETWORK), dtype=torch.int8)
        events = ()
        if self.n_segments % 3 == 0:
            made_by[:, n // 2 :] = int(MadeBy.INTEGRATOR)
            events = (Event(times[0], 0, "fake judge", "value 2 above 1", n // 2, n),)
        energies = torch.full((state.n_replicas, n), float("nan"), dtype=torch.float64)
        energies[:, -1] = x.double().square().sum((1, 2))
        return Segment(
            state.molecule,
            torch.tensor(times, dtype=torch.float64),
            torch.stack(xs, 1),
            torch.stack(vs, 1),
            made_by,
            energies,
            state.cell,
            events,
        )

    def restart_state(self):
        return {
            "generator": self.generator.get_state(),
            "n_segments": torch.tensor(self.n_segments),
        }

    def restore(self, saved):
        self.generator.set_state(saved["generator"])
        self.n_segments = int(saved["n_segments"])


def start(n_replicas=2, dtype=torch.float64, cell=False):
    pbc = (True, True, True) if cell else (False, False, False)
    molecule = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)], pbc=pbc)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n_replicas, 3, 3, generator=generator, dtype=torch.float64).to(dtype)
    box = (20.0 * torch.eye(3, dtype=dtype)).expand(n_replicas, 3, 3) if cell else None
    return State(molecule, x, 0.1 * x, 0.0, box)


def main():
    from egno_md.trajectories.generate import RunInterrupted, StoreOptions, generate

    store, length_ps, flush_s = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    sleep_s = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
    torch.set_num_threads(1)
    try:
        summary = generate(
            NoisyOscillator(sleep_s=sleep_s),
            start(),
            length_ps=length_ps,
            store=store,
            resume=True,
            options=StoreOptions(flush_every_s=flush_s),
        )
    except RunInterrupted as stopped:
        print(stopped)
        sys.exit(130)
    print(summary.n_frames)


if __name__ == "__main__":
    main()
