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
# them are on: alanine dipeptide at 300 K, beside the same force field integrated by OpenMM.

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
simulation.context.setPositions(pdb.positions)
simulation.minimizeEnergy()
simulation.context.setVelocitiesToTemperature(300, 1)
interval_ps = simulation.integrator.getStepSize().value_in_unit(picosecond)
simulation.step(40 if SMOKE else 120)  # the bath warms the molecule

# %% [markdown]
# ## All reporters

# %%
frames = 80 if SMOKE else 800
simulation.reporters += [
    app.DCDReporter("segments.dcd", 1),
    app.XTCReporter("segments.xtc", 4),
    app.PDBReporter("segments.pdb", frames // 2),
    app.CheckpointReporter("segments.chk", 16),
    app.StateDataReporter(
        "segments.csv", 8, step=True, time=True, potentialEnergy=True, temperature=True
    ),
]
began = time.process_time()
simulation.step(frames)
segment_s = time.process_time() - began
simulation.reporters.clear()  # closes the files
statistics = simulation.statistics()
print(statistics.frames_by, "rejected:", statistics.rejections_by)

# %% [markdown]
# A checkpoint in the middle of a segment goes on with the same bits.

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
# ## The reference: OpenMM by itself

# %%
reference = app.Simulation(
    pdb.topology,
    app.ForceField("amber14-all.xml").createSystem(pdb.topology),
    openmm.LangevinMiddleIntegrator(300, 5 / picosecond, 1 * femtosecond),
    platform,
)
reference.integrator.setRandomNumberSeed(1)
reference.context.setPositions(pdb.positions)
reference.context.setVelocitiesToTemperature(300, 1)
steps = 4000 if SMOKE else 500_000
reference.reporters.append(app.DCDReporter("reference.dcd", 100))
began = time.process_time()
reference.step(steps)
reference_s = time.process_time() - began
reference.reporters.clear()
print(f"segments: {segment_s / (frames * interval_ps):.2f} s of processor time for 1 ps")
print(f"OpenMM:   {reference_s / (steps * 0.001):.2f} s: amber14 of 22 atoms is cheap")

# %% [markdown]
# So nobody needs a network in place of this force field; it is here because it is quick to check.
# What the network learnt costs the same when the teacher is slow.
#
# ## What mdtraj reads

# %%
topology = mdtraj.Topology.from_openmm(pdb.topology)
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


def without_jumps(values):
    """The same with gaps where an angle goes over the edge, for a line."""
    jumps = np.flatnonzero(np.abs(np.diff(values)) > 180) + 1
    return np.insert(values, jumps, np.nan), jumps


# %%
state = np.genfromtxt("segments.csv", delimiter=",", names=True)
figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 3.8), layout="constrained", width_ratios=(1, 1.3)
)
phi, psi = angles(mdtraj.load("reference.dcd", top=topology))
left.hist2d(phi, psi, bins=60, range=[[-180, 180]] * 2, cmap="Greys", norm="log")
phi, psi = angles(segments)
picture = left.scatter(phi, psi, s=3, c=segments.time * 0 + np.arange(len(phi)) * interval_ps)
figure.colorbar(picture, ax=left, label="time of the segments (ps)")
left.set(xlabel="φ (°)", ylabel="ψ (°)", xticks=range(-180, 181, 90), yticks=range(-180, 181, 90))
left.set(title="points: segments; grey: OpenMM, 0.5 ns", aspect="equal")
right.plot(state["Time_ps"], state["Temperature_K"])
right.axhline(300, color="grey", linestyle="--")
right.set(xlabel="time (ps)", ylabel="temperature (K)", title="StateDataReporter")
figure.savefig("openmm_engine.png", dpi=120)
