# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # A ligand by a network in water by a force field
#
# You get ethanol whose own energy is eSCN's, in TIP3P water, as one OpenMM System made by
# openmm-ml (`MLPotential("escn")`), and an integrator that asks the network once in 2 fs instead
# of four times.

# %%
import io
import os
import time
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np
import openmm
import torch
from openmm import app, unit
from openmmml import MLPotential

import egno_md as em

SMOKE = bool(os.environ.get("EGNO_MD_SMOKE"))
torch.set_num_threads(1)
platform = openmm.Platform.getPlatformByName("CPU")
ethanol = em.read_structure(str(files("egno_md") / "examples" / "ethanol.xyz"))
positions_nm = ethanol.positions[0].double().numpy() / 10

# %% [markdown]
# ## The force field
#
# What water feels of ethanol: charges and radii of OPLS-AA (Jorgensen et al. 1996,
# doi:10.1021/ja9621760). Its bonds, angles and torsions are not needed, they are the network's.

# %%
KINDS = {  # element, charge, sigma (nm), epsilon (kJ/mol)
    "CH3": ("C", -0.180, 0.350, 0.276144),
    "CH2": ("C", 0.145, 0.350, 0.276144),
    "OH": ("O", -0.683, 0.312, 0.711280),
    "HO": ("H", 0.418, 0.100, 0.0),
    "HC": ("H", 0.060, 0.250, 0.125520),
}
names = ["CH2", "CH3", "OH", "HC", "HC", "HC", "HC", "HC", "HO"]
bonds = ethanol.molecule.bonds.tolist()
elements = {kind: app.Element.getBySymbol(values[0]) for kind, values in KINDS.items()}
xml = ["<ForceField><AtomTypes>"]
xml += [
    f'<Type name="{k}" class="{k}" element="{e.symbol}" mass="{e.mass._value}"/>'
    for k, e in elements.items()
]
xml += ['</AtomTypes><Residues><Residue name="ETH">']
xml += [f'<Atom name="{k}{i}" type="{k}"/>' for i, k in enumerate(names)]
xml += [f'<Bond from="{i}" to="{j}"/>' for i, j in bonds]
xml += ['</Residue></Residues><NonbondedForce coulomb14scale="0.833333" lj14scale="0.5">']
xml += [
    f'<Atom type="{k}" charge="{q}" sigma="{s}" epsilon="{e}"/>'
    for k, (_, q, s, e) in KINDS.items()
]
xml += ["</NonbondedForce></ForceField>"]
force_field = app.ForceField("tip3p.xml", io.StringIO("\n".join(xml)))

# %%
alone = app.Topology()
residue = alone.addResidue("ETH", alone.addChain())
atoms = [alone.addAtom(f"{k}{i}", elements[k], residue) for i, k in enumerate(names)]
for i, j in bonds:
    alone.addBond(atoms[i], atoms[j])
solvated = app.Modeller(alone, positions_nm * unit.nanometer)
solvated.addSolvent(force_field, boxSize=openmm.Vec3(1.9, 1.9, 1.9) * unit.nanometer)
classical = force_field.createSystem(
    solvated.topology,
    nonbondedMethod=app.PME,
    nonbondedCutoff=0.8 * unit.nanometer,
    switchDistance=0.7 * unit.nanometer,  # else the energy jumps with every pair that leaves
)
n_waters = sum(r.name == "HOH" for r in solvated.topology.residues())
print(f"ethanol and {n_waters} waters")

# %% [markdown]
# ## The mixed System
#
# Atoms 0 to 8 are the network's among themselves; the network has force group 2 for itself.

# %%
potential = MLPotential("escn", modelPath="ethanol-escn")
system = potential.createMixedSystem(solvated.topology, classical, range(9), forceGroup=2)
for force in system.getForces():
    print(force.getForceGroup(), force.getName())

# %% [markdown]
# ## Multiple time steps
#
# The network's stiffest bonds would not bear to be looked at once in 2 fs. So springs for the bonds
# of hydrogen go into group 0 and the same springs, negative, into the network's group: the sum is
# what it was, and what is left of the network is soft. Their lengths and strengths are read off
# the network at its own minimum.

# %%
probe = openmm.Context(
    potential.createSystem(alone, precision="double"), openmm.VerletIntegrator(0.001), platform
)
probe.setPositions(positions_nm)
openmm.LocalEnergyMinimizer.minimize(probe, 1.0)
rest = probe.getState(getPositions=True).getPositions(asNumpy=True)._value.copy()


def energy_with_moved(j, shift):
    moved = rest.copy()
    moved[j] += shift
    probe.setPositions(moved)
    return probe.getState(getEnergy=True).getPotentialEnergy()._value


there, away = openmm.HarmonicBondForce(), openmm.HarmonicBondForce()
away.setForceGroup(2)
for i, j in bonds:
    if names[j].startswith("H"):
        length = np.linalg.norm(rest[j] - rest[i])
        step = 0.001 * (rest[j] - rest[i]) / length
        ends = energy_with_moved(j, step) + energy_with_moved(j, -step)
        spring = (ends - 2 * energy_with_moved(j, 0)) / 0.001**2
        there.addBond(i, j, length, spring)
        away.addBond(i, j, length, -spring)
        print(f"{names[i]}-{names[j]}: {10 * length:.3f} Å, {spring:.0f} kJ/mol/nm²")

# %% [markdown]
# Springs every 0.5 fs, water and its charges every 1 fs, the network every 2 fs.

# %%
for force in system.getForces():
    if force.getForceGroup() == 0 and not isinstance(force, openmm.CMMotionRemover):
        force.setForceGroup(1)
system.addForce(there)
system.addForce(away)
outer_fs, schedule = 2.0, [(2, 1), (1, 2), (0, 4)]  # group, times in an outer step


def context_with(integrator, state=None):
    """A Context, from a state or from the start."""
    made = openmm.Context(system, integrator, platform, {"Threads": "1"})
    if state is None:
        made.setPositions(solvated.positions)
    else:
        made.setState(state)
    return made


# %%
bath = openmm.MTSLangevinIntegrator(300, 5 / unit.picosecond, outer_fs * unit.femtosecond, schedule)
bath.setRandomNumberSeed(1)
warm = context_with(bath)
openmm.LocalEnergyMinimizer.minimize(warm, maxIterations=20 if SMOKE else 100)
warm.setVelocitiesToTemperature(300, 1)
frames = []
for _ in range(4 if SMOKE else 50):
    bath.step(4)
    frames.append(warm.getState(getPositions=True).getPositions(asNumpy=True)._value)
start = warm.getState(getPositions=True, getVelocities=True)
kelvin = warm.getState(getEnergy=True).getKineticEnergy() / (
    0.5 * (27 + 6 * n_waters) * unit.MOLAR_GAS_CONSTANT_R
)
print(f"{len(frames) * 4 * outer_fs / 1000} ps at constant temperature, {kelvin._value:.0f} K")

# %% [markdown]
# ## What it costs, and whether energy stays
#
# At constant energy, from the same state: against Verlet with everything every 0.5 fs.

# %%
length_fs = 8.0 if SMOKE else 160.0
ways = {
    "Verlet, 0.5 fs": (openmm.VerletIntegrator(0.0005), 0.5),
    "MTS, network every 2 fs": (openmm.MTSIntegrator(0.002, schedule), 2.0),
}
energies = {}
for name, (integrator, step_fs) in ways.items():
    context = context_with(integrator, start)
    total, began = [], time.process_time()
    for _ in range(round(length_fs / 4)):
        state = context.getState(getEnergy=True)
        total.append((state.getPotentialEnergy() + state.getKineticEnergy())._value)
        integrator.step(round(4 / step_fs))
    seconds = time.process_time() - began
    energies[name] = np.array(total) - total[0]
    spread = energies[name].std()
    print(f"{name}: {1000 * seconds / length_fs:.0f} ms per fs, energy {spread:.2f} kJ/mol")


# %% [markdown]
# ## Hydrogen bonds of the ligand
#
# From the run at constant temperature. The network knows nothing of water: ethanol's bonds to it
# are made by the charges.


# %%
def nearest(point, others, box):
    """Distance to the nearest of some points or their images, nm."""
    arrows = others - point
    return np.linalg.norm(arrows - box * np.round(arrows / box), axis=1).min()


box = np.array([vector[k]._value for k, vector in enumerate(start.getPeriodicBoxVectors())])
oxygens = slice(9, None, 3)
donated = [10 * nearest(x[8], x[oxygens], box) for x in frames]
accepted = [10 * min(nearest(x[2], x[first::3], box) for first in (10, 11)) for x in frames]

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for name, change in energies.items():
    left.plot(np.arange(len(change)) * 4, change, label=name)
left.set(xlabel="time (fs)", ylabel="total energy, change (kJ/mol)", ylim=(-4, 4))
left.set(title="constant energy")
left.legend(loc="upper left", frameon=False)
times_ps = (1 + np.arange(len(frames))) * 4 * outer_fs / 1000
right.plot(times_ps, donated, label="ethanol's H to the nearest water O")
right.plot(times_ps, accepted, label="ethanol's O to the nearest water H")
right.set(xlabel="time (ps)", ylabel="distance (Å)", ylim=(1.2, 3.6), title="300 K")
right.legend(loc="upper right", frameon=False)
figure.savefig("ml_mm.png", dpi=120)
