"""A small bundle to save, damage and read."""

import json

import torch

from egno_md.bundle import save_bundle
from egno_md.bundle_card import BundleCard
from egno_md.models.escn_md import ESCNMD

SMALL = {
    "max_degree": 1,
    "max_order": 1,
    "channels": 4,
    "hidden_channels": 4,
    "n_layers": 1,
    "n_radial": 4,
    "radial_hidden": 8,
}


def small_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return ESCNMD(elements=[1, 6, 8], **SMALL)


def small_card(model):
    return BundleCard(
        name="small-escn",
        kind="escn",
        architecture=model.architecture(),
        elements=[8, 6, 1, 1],
        cutoff_A=5.0,
        level_of_theory="made up",
        temperature_range_K=(200.0, 900.0),
        training={"data": "none", "seed": 1},
        held_out={"force_mae_eV_per_A": 0.25},
        citation="nobody",
    )


def saved(path, model, card):
    """Save it, with a reference."""
    reference = {"bond_0_1": torch.linspace(0.0, 1.0, 5)}
    return save_bundle(path, card, model.state_dict(), reference)


def edit_card(folder, **changes):
    """Change the JSON text of a saved card; "drop" drops a key."""
    file = folder / "bundle.json"
    raw = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in raw.items() if v != "drop"}))
