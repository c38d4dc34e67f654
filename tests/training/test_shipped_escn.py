"""The packaged eSCN potential against the force field that taught it, on frames it never saw."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from egno_md.bundle import load_bundle
from egno_md.data.frame_files import load_frames
from egno_md.data.sgdml import SGDMLPotential
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.state import Molecule, State
from egno_md.units import KCAL_PER_MOL

torch.set_num_threads(1)


def test_card_keeps_its_promises():
    card = load_bundle("ethanol-escn", kind="escn").card
    assert card.held_out["force_mae_kcal_per_mol_A"] <= 0.5
    assert card.training["n_test"] >= 1000
    assert card.training["command"].startswith("egno-md train train_ethanol_escn.toml")


def test_forces_agree_with_teacher_and_with_dft():
    folder = os.environ.get("EGNO_MD_DATA")
    if folder is None:
        pytest.skip("set EGNO_MD_DATA to the data folder to compare with sGDML and DFT")
    md17 = Path(folder) / "md17"
    frames = load_frames(md17 / "md17_ethanol_2000_noncontiguous.npz", "kcal/mol")
    dense = frames.select(torch.arange(0, 2000, 20)).dense()
    state = State.at_rest(Molecule.from_numbers(dense.numbers), dense.positions)
    mine = ESCNPotential.from_bundle("ethanol-escn").evaluate(state)
    teacher = SGDMLPotential.from_npz(md17 / "sgdml_model_ethanol.npz").evaluate(state)
    to_teacher = float((mine.forces - teacher.forces).abs().mean()) / KCAL_PER_MOL
    to_dft = float((mine.forces - dense.forces).abs().mean()) / KCAL_PER_MOL
    energy = float((mine.energy - teacher.energy).abs().mean()) / KCAL_PER_MOL
    assert to_teacher < 0.5
    assert to_dft < 0.6
    assert energy < 0.2
