# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # A first trajectory
#
# A network (EGNO) advances ethanol 36 fs at a time; a second one (eSCN) watches the energy.
# What it does not believe is made again by velocity Verlet. Everything is in Å, fs, eV.

# %%
import os
from importlib.resources import files
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from egno_md.data.structures import read_structure
from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.propagators.guarded import GuardedPropagator
from egno_md.propagators.learned import LearnedPropagator
from egno_md.propagators.thermostat import Thermostatted
from egno_md.segment import MadeBy
from egno_md.state import State, maxwell_boltzmann, temperature_K
from egno_md.trajectories.generate import generate
from egno_md.trajectories.judges import BondJudge, EnergyJudge, FiniteJudge
from egno_md.trajectories.store_reader import TrajectoryReader

length_ps = 0.2 if os.environ.get("EGNO_MD_SMOKE") else 5.0
torch.set_num_threads(1)

# %% [markdown]
# Eight copies of one geometry, with velocities of their own at 300 K.

# %%
structure = read_structure(str(files("egno_md") / "examples" / "ethanol.xyz"))
molecule = structure.molecule
generator = torch.Generator().manual_seed(1)
start = State(
    molecule,
    structure.positions.double().repeat(8, 1, 1),
    maxwell_boltzmann(molecule, 8, 300.0, generator),
)

# %% [markdown]
# Fast and safe propagators, and judges between them; a bath acts before each segment.

# %%
potential = ESCNPotential.from_bundle("ethanol-escn")
fast = LearnedPropagator.from_bundle("ethanol-egno", molecule)
safe = VelocityVerlet(potential, 0.5, fast.frame_interval_fs, fast.n_frames)
judges = [
    FiniteJudge(),
    BondJudge.around(molecule, structure.positions[0], 0.5),
    EnergyJudge(potential, limit_eV=0.05),
]
guarded = GuardedPropagator(fast, safe, judges)
propagator = Thermostatted(guarded, 300.0, 10.0, generator)

# %%
summary = generate(propagator, start, length_ps=length_ps, store="first.zarr")
print(guarded.statistics())

# %% [markdown]
# Every frame says who made it; frame 0 is the start. Its geometry is a frame of hotter dynamics,
# so the first half picosecond is the bath bringing the molecules to 300 K.

# %%
reader = TrajectoryReader(Path("first.zarr"))
segment = reader.segment(1, reader.n_frames)
made_by_network = (segment.made_by == int(MadeBy.NETWORK)).double().mean()
print(f"{float(made_by_network):.1%} of the frames were made by the network")

# %%
kelvin = temperature_K(molecule, segment.velocities).mean(0)
i, j = molecule.bonds.T
lengths = (segment.positions[:, :, i] - segment.positions[:, :, j]).norm(dim=-1)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.plot(segment.times_fs / 1000, kelvin)
left.axhline(300, color="grey", linestyle="--")
left.set(xlabel="time (ps)", ylabel="temperature (K)", title="mean of 8 replicas")
right.hist(lengths[..., 0].flatten().numpy(), bins=60, density=True)
right.set(xlabel="C-C (Å)", title="one bond")
figure.savefig("first_trajectory.png", dpi=120)
