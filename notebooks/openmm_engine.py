# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # Predicted segments inside OpenMM
#
# You get an `app.Simulation` whose step is one frame that a network predicted
# (`SegmentSimulation`). Thermostats, reporters and checkpoints are OpenMM's own, and here all of
# them are on: alanine dipeptide at 300 K, beside the force field it was taught, run by OpenMM.

# %%
import os
import time
from importlib.resources import files

import matplotlib.pyplot as plt
import mdtraj
import numpy as np
import openmm
import torch
from openmm import app, unit

from egno_md.calculators.segment_simulation import SegmentSimulation

SMOKE = bool(os.environ.get("EGNO_MD_SMOKE"))
torch.set_num_threads(1)
pdb = app.PDBFile(str(files("egno_md") / "examples" / "alanine_dipeptide.pdb"))
platform = openmm.Platform.getPlatformByName("Reference")  # the fastest for 22 atoms
picosecond, femtosecond = unit.picosecond, unit.femtosecond

# %% [markdown]
# ## The reference: OpenMM by itself

# %%
system = app.ForceField("amber14-all.xml").createSystem(pdb.topology)
langevin = openmm.LangevinMiddleIntegrator(300, 5 / picosecond, 1 * femtosecond)
langevin.setRandomNumberSeed(1)
reference = app.Simulation(pdb.topology, system, langevin, platform)
reference.context.setPositions(pdb.positions)
reference.context.setVelocitiesToTemperature(300, 1)
reference.step(5000)
steps = 6000 if SMOKE else 500_000
reference.reporters.append(app.XTCReporter("reference.xtc", 100))
began = time.process_time()
reference.step(steps)
reference_s = time.process_time() - began
reference.reporters.clear()  # closes the file
topology = mdtraj.Topology.from_openmm(pdb.topology)
known = mdtraj.load("reference.xtc", top=topology)

# %% [markdown]
# ## The simulation
#
# The forces of the system move nothing. They check the energy of every segment of 8 frames, and
# the fallback makes again with them what gained or lost more than the limit.

# %%
system = app.ForceField("amber14-all.xml").createSystem(pdb.topology)
system.addForce(openmm.AndersenThermostat(300, 10 / picosecond))
simulation = SegmentSimulation(
    pdb.topology,
    system,
    "alanine-dipeptide-egno",
    energy_limit=20 * unit.kilojoule_per_mole,
    fallback=openmm.VerletIntegrator(0.5 * femtosecond),
    platform=platform,
)
interval_ps = simulation.integrator.getStepSize().value_in_unit(picosecond)

# %% [markdown]
# ## All reporters
#
# The run is short, so it starts from six places: frames of the reference, far apart, with new
# velocities. The simulation notices that somebody moved its atoms.

# %%
starts, frames = 6, 16 if SMOKE else 136
simulation.reporters += [
    app.DCDReporter("segments.dcd", 1),
    app.XTCReporter("segments.xtc", 4),
    app.PDBReporter("segments.pdb", frames),
    app.CheckpointReporter("segments.chk", 16),
    app.StateDataReporter(
        "segments.csv", 8, step=True, time=True, potentialEnergy=True, temperature=True
    ),
]
began = time.process_time()
for k in range(starts):
    simulation.context.setPositions(known.xyz[k * len(known) // starts])
    simulation.context.setVelocitiesToTemperature(300, k + 1)
    simulation.step(frames)
segment_s = time.process_time() - began
simulation.reporters.clear()
statistics = simulation.statistics()
print(f"{statistics.frames_by}, rejected: {statistics.rejections_by}")
print(f"segments: {segment_s / (starts * frames * interval_ps):.2f} s of processor time for 1 ps")
print(f"OpenMM:   {reference_s / (steps * 0.001):.3f} s")

# %% [markdown]
# This force field of 22 atoms is so cheap that nobody needs a network in its place: it is here
# because it can be checked. The network costs the same when its teacher is a slow one.
#
# A checkpoint in the middle of a segment goes on with the same bits:

# %%
ends = []
simulation.step(3)
simulation.saveCheckpoint("middle.chk")
for _ in range(2):
    simulation.loadCheckpoint("middle.chk")
    simulation.step(20)
    ends.append(simulation.context.getState(getPositions=True).getPositions(asNumpy=True)._value)
print("the same after a checkpoint:", np.array_equal(*ends))

# %% [markdown]
# ## What mdtraj reads

# %%
segments = mdtraj.load("segments.dcd", top=topology)
sparse = mdtraj.load("segments.xtc", top=topology)
models = mdtraj.load("segments.pdb")
print(f"DCD {len(segments)} frames, XTC {len(sparse)}, PDB {len(models)}")
print(f"XTC times {sparse.time[0]:.3f}, {sparse.time[1]:.3f}, ... {sparse.time[-1]:.3f} ps")


# %%
def angles(trajectory):
    """Phi and psi, degrees."""
    found = [mdtraj.compute_phi(trajectory)[1], mdtraj.compute_psi(trajectory)[1]]
    return [np.degrees(angle[:, 0]) for angle in found]


# %%
state = np.genfromtxt("segments.csv", delimiter=",", names=True)
figure, axes = plt.subplots(1, 3, figsize=(10, 3.3), layout="constrained", width_ratios=(1, 1, 1.1))
edges = np.linspace(-180, 180, 61)
for ax in axes[:2]:
    ax.hist2d(*angles(known), bins=edges, cmap="Greys", norm="log")
    ax.set(xlabel="φ (°)", ylabel="ψ (°)", aspect="equal")
    ax.set(xticks=range(-180, 181, 90), yticks=range(-180, 181, 90))
phi, psi = angles(segments)
start = np.arange(len(phi)) // frames
axes[1].scatter(phi, psi, s=2, c=start, cmap="tab10", vmin=0, vmax=9)
axes[0].set_title(f"OpenMM, {steps / 1e6:.1f} ns")
axes[1].set_title(f"with {starts} x {frames * interval_ps:.1f} ps of segments")
axes[2].plot(state["Time_ps"], state["Temperature_K"], linewidth=1)
axes[2].axhline(300, color="grey", linestyle="--")
axes[2].set(xlabel="time (ps)", ylabel="temperature (K)", title="from StateDataReporter")
figure.savefig("openmm_engine.png", dpi=120)
