# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # Two networks inside ASE
#
# You get a potential that ASE's optimisers, vibrations and `ase.md` take like any other
# (`ESCNCalculator`), and a driver of `ase.md` whose step is one frame of a predicted segment
# (`SegmentDynamics`). Here both move ethanol at 300 K, and the second is held against the first.

# %%
import os
import time
from importlib.resources import files

import ase.io
import matplotlib.pyplot as plt
import numpy as np
import torch
from ase import units
from ase.io import Trajectory
from ase.md import thermalize_momenta
from ase.md.langevin import Langevin
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from egno_md import ESCNCalculator, SegmentDynamics

SMOKE = bool(os.environ.get("EGNO_MD_SMOKE"))
torch.set_num_threads(1)

# %% [markdown]
# ## The potential: optimise, then vibrate

# %%
atoms = ase.io.read(files("egno_md") / "examples" / "ethanol.xyz")
atoms.calc = ESCNCalculator("ethanol-escn", dtype="float64")
BFGS(atoms, logfile=None).run(fmax=0.005)
vibrations = Vibrations(atoms, name="vibrations")
vibrations.run()
wavenumbers = vibrations.get_frequencies().real[6:]  # the first six move the whole molecule
print(f"minimum {atoms.get_potential_energy():.4f} eV, {len(wavenumbers)} vibrations, cm⁻¹:")
print(" ".join(f"{k:.0f}" for k in wavenumbers))

# %% [markdown]
# ## Segments: a step is a frame
#
# EGNO makes 36 fs in one go, handed out as 12 frames with velocities of their own. The potential
# checks the energy of every segment; what it rejects would be made again by velocity Verlet.
# Trajectories and loggers attach as to every driver; they ask for an energy where they are due.
# `irun` asks for none.

# %%
atoms.calc = ESCNCalculator("ethanol-escn")  # float32, as a long run would
thermalize_momenta(atoms, 300, rng=np.random.default_rng(1))
dynamics = SegmentDynamics(
    atoms, "ethanol-egno", temperature_K=300, coupling_per_ps=10, seed=1, guard=atoms.calc
)
with Trajectory("ethanol.traj", "w", atoms) as trajectory:
    dynamics.attach(trajectory, interval=20)
    dynamics.run(40 if SMOKE else 200)  # the bath warms the molecule
    dynamics.observers.clear()
energies = [image.get_potential_energy() for image in ase.io.read("ethanol.traj", ":")]
print(f"{len(energies)} frames in ethanol.traj, the last at {energies[-1]:.2f} eV")

# %%
interval_fs = dynamics.propagator.frame_interval_fs
began = time.process_time()
predicted = [atoms.copy() for _ in dynamics.irun(80 if SMOKE else 1000)]
segment_s = time.process_time() - began
print(dynamics.statistics().frames_by)

# %% [markdown]
# ## The same with `ase.md`
#
# Langevin dynamics with the potential, at the same temperature and friction, from the last frame.

# %%
langevin = Langevin(
    atoms,
    0.5 * units.fs,
    temperature_K=300,
    friction=10 / (1000 * units.fs),
    fixcm=False,
    rng=np.random.default_rng(2),
)
began = time.process_time()
integrated = [atoms.copy() for _ in langevin.irun(40 if SMOKE else 600)]
langevin_s = time.process_time() - began

# %%
runs = {
    "SegmentDynamics": (predicted, interval_fs, segment_s),
    "ase.md": (integrated, 0.5, langevin_s),
}
cost = {}
for name, (images, between_fs, seconds) in runs.items():
    length_ps = len(images) * between_fs / 1000
    kelvin = np.mean([image.get_temperature() for image in images])
    # The energy forgets at the rate of the friction, 10 per ps, and has 27 degrees of freedom.
    scatter = 300 * (2 / 27) ** 0.5 / max(1.0, 10 * length_ps / 2) ** 0.5
    cost[name] = seconds / length_ps
    print(
        f"{name}: {length_ps:.1f} ps, {kelvin:.0f} K (so short a run scatters by {scatter:.0f} K)"
    )
ratio = cost["ase.md"] / cost["SegmentDynamics"]
print(f"per ps ase.md takes {ratio:.1f} times the processor time of SegmentDynamics with its guard")


# %% [markdown]
# ## What both say about the molecule
#
# The spectrum of the velocities between the harmonic lines of the first step, and the lengths of
# the five C-H bonds. A few hundred femtoseconds of `ase.md` are few: its histogram is the rougher.


# %%
def spectrum(images, interval_fs):
    """Power of the velocities by wavenumber, cm⁻¹, weighted with the masses."""
    momenta = np.array(
        [image.get_momenta() / image.get_masses()[:, None] ** 0.5 for image in images]
    )
    window = np.hanning(len(images))[:, None, None]
    power = (np.abs(np.fft.rfft(momenta * window, axis=0)) ** 2).sum((1, 2))
    return np.fft.rfftfreq(len(images), interval_fs) * 33356.41, power / power.max()


def bond_lengths(images, first, second):
    """Lengths of all bonds of two elements that the first image has, Å."""
    symbols, near = images[0].symbols, images[0].get_all_distances() < 1.3
    pairs = [(i, j) for i, j in np.argwhere(near) if (symbols[i], symbols[j]) == (first, second)]
    return np.array([[image.get_distance(i, j) for i, j in pairs] for image in images]).ravel()


# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 3.2), layout="constrained", width_ratios=(2, 1)
)
colours = {"SegmentDynamics": "C0", "ase.md": "C1"}
left.vlines(wavenumbers, 0, -0.12, color="black", linewidth=1, label="vibrations at the minimum")
left.plot(*spectrum(predicted, interval_fs), linewidth=0.8, label="SegmentDynamics")
left.set(xlabel="wavenumber (cm⁻¹)", ylabel="power of the velocities", xlim=(0, 4100), yticks=[])
left.legend(loc="upper center", frameon=False)
bins = np.linspace(1.0, 1.22, 45)
for name, (images, _, _) in runs.items():
    lengths = bond_lengths(images, "C", "H")
    right.hist(lengths, bins, density=True, histtype="step", color=colours[name], label=name)
right.set(xlabel="C-H (Å)", ylabel="probability", xlim=(1.0, 1.22), ylim=(0, 20), yticks=[])
right.legend(loc="upper right", frameon=False, fontsize=8)
figure.savefig("ase_engine.png", dpi=120)
