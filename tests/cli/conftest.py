import pytest
import torch

from egno_md.bonds import bond_graph_distance
from egno_md.bundle import save_bundle
from egno_md.bundle_card import BundleCard
from egno_md.data.structures import read_structure
from egno_md.models.escn_md import ESCNMD
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import class_of_pairs


@pytest.fixture(scope="session")
def tiny_guard(tmp_path_factory):
    """Path of an untrained eSCN bundle for H, C and O: weak, but smooth, forces."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ESCNMD(
            [1, 6, 8],
            max_degree=1,
            max_order=1,
            channels=4,
            hidden_channels=4,
            n_layers=1,
            radial_hidden=8,
            energy_scale_eV=0.1,
        )
    card = BundleCard(
        name="tiny-escn",
        kind="escn",
        architecture=model.architecture(),
        elements=[1, 6, 8],
        cutoff_A=5.0,
    )
    path = tmp_path_factory.mktemp("bundles") / "tiny-escn.bundle"
    save_bundle(path, card, model.state_dict())
    return path


@pytest.fixture(scope="session")
def tiny_egno(tmp_path_factory):
    """Path of an untrained EGNO bundle for ethanol: frames 2 fs apart, 8 fs in one go."""
    from importlib import resources
    from pathlib import Path

    file = Path(str(resources.files("egno_md"))) / "examples" / "ethanol.xyz"
    molecule = read_structure(file).molecule
    apart = bond_graph_distance(molecule.n_atoms, molecule.bonds, 4)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = HamiltonianEGNO(
            [1, 6, 8],
            class_of_pairs(molecule.numbers, apart)[1],
            step_fs=2.0,
            n_stages=1,
            n_modes=1,
            n_hidden=8,
            n_vectors=2,
            n_layers=1,
            n_radial=4,
        )
    card = BundleCard(
        name="tiny-egno",
        kind="egno",
        architecture=model.architecture(),
        elements=[1, 6, 8],
        horizon_fs=8.0,
        frame_interval_fs=2.0,
        temperature_range_K=(250.0, 350.0),
    )
    path = tmp_path_factory.mktemp("bundles") / "tiny-egno.bundle"
    save_bundle(path, card, model.state_dict())
    return path
