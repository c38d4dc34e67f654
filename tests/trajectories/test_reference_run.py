import os

import pytest
import torch

from egno_md.bundle import BundleCard, load_bundle, save_bundle
from egno_md.cli import main
from egno_md.roles import EnergyForces
from egno_md.state import Molecule, State
from egno_md.trajectories.comparison import check_reference, reference_bond_means
from egno_md.trajectories.reference_run import ReferencePlan, fit_into, make_reference

STIFFNESS = 20.0
LENGTHS = torch.tensor([1.0, 1.4], dtype=torch.float64)
PLAN = ReferencePlan(
    temperature_K=300.0,
    friction_per_ps=20.0,
    timestep_fs=1.0,
    length_ps=0.5,
    burn_in_ps=0.3,
    n_replicas=64,
)


class Springs:
    """Two springs in a chain of three atoms, E = k/2 (r - r0)^2 each."""

    def evaluate(self, state):
        x = state.positions
        bonds = state.molecule.bonds
        along = x[:, bonds[:, 1]] - x[:, bonds[:, 0]]
        length = along.norm(dim=-1)
        stretch = length - LENGTHS
        pull = STIFFNESS * (stretch / length)[..., None] * along
        forces = torch.zeros_like(x)
        forces.index_add_(1, bonds[:, 0], pull)
        forces.index_add_(1, bonds[:, 1], -pull)
        return EnergyForces(0.5 * STIFFNESS * stretch.square().sum(-1), forces)

    def energies(self, state):
        return self.evaluate(state).energy


@pytest.fixture(scope="module")
def chain():
    molecule = Molecule.from_numbers([1, 6, 8], bonds=[(0, 1), (1, 2)])
    x = torch.tensor([[-1.0, 0, 0], [0, 0, 0], [0.3, 1.35, 0]], dtype=torch.float64)
    return State.at_rest(molecule, x)


@pytest.fixture(scope="module")
def reference(chain):
    return make_reference(Springs(), chain, PLAN, description="two springs")


def test_reference_has_the_spread_that_the_temperature_gives(reference):
    # Free of angles, each spring has variance kT/k and, from the Jacobian r^2, mean r0 + 2kT/kr0.
    thermal = 8.617333262145179e-05 * 300.0
    expected = (thermal / STIFFNESS) ** 0.5
    assert reference["bond_std_A"].tolist() == pytest.approx([expected] * 2, rel=0.1)
    shift = 2 * thermal / STIFFNESS / LENGTHS
    assert reference["bond_mean_A"].tolist() == pytest.approx(
        (LENGTHS + shift).tolist(), abs=0.2 * expected
    )
    assert float(reference["temperature_mean_K"]) == pytest.approx(300.0, rel=0.05)
    assert float(reference["potential_mean_eV"]) == pytest.approx(thermal, rel=0.1)


def test_halves_are_independent_and_the_whole_repeats(reference, chain):
    counts, half = reference["bond_counts"].long(), reference["block_half"]
    assert half.tolist() == [0] * 32 + [1] * 32
    assert not torch.equal(counts[half == 0], counts[half == 1])
    short = ReferencePlan(length_ps=0.02, burn_in_ps=0.0, n_replicas=4, timestep_fs=1.0)
    first, second = (make_reference(Springs(), chain, short) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_reference_is_complete_and_small(reference, chain):
    assert check_reference(reference).numbers.tolist() == [1, 6, 8]
    assert bytes(reference["description_utf8"].tolist()).decode() == "two springs"
    assert sum(v.numel() * v.element_size() for v in reference.values()) <= 300_000
    assert torch.equal(reference_bond_means(reference, chain.molecule), reference["bond_mean_A"])


def test_blocks_are_joined_to_fit_and_no_count_is_lost(reference):
    smaller = fit_into(dict(reference), 30_000)
    n = len(smaller["block_frames"])
    assert n < 64
    assert smaller["block_half"].tolist() == [0] * (n // 2) + [1] * (n // 2)
    for key in ("bond_counts", "pair_counts", "block_frames"):
        assert torch.equal(smaller[key].long().sum(0), reference[key].long().sum(0))
    with pytest.raises(ValueError, match="do not fit into 1000 bytes"):
        fit_into(dict(reference), 1000)


@pytest.mark.parametrize(
    ("field", "value"), [("temperature_K", 0.0), ("n_replicas", 5), ("burn_in_ps", -1.0)]
)
def test_wrong_plans_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        ReferencePlan(**{field: value})


@pytest.fixture
def bundle_path(tmp_path):
    card = BundleCard(
        name="springs", kind="egno", architecture={"name": "egno"}, elements=[1, 6, 8]
    )
    return save_bundle(tmp_path / "springs.bundle", card, {"w": torch.ones(1)})


def test_verb_writes_the_reference_into_the_bundle(bundle_path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "egno_md.training.sources.open_potential", lambda name, structure: Springs()
    )
    xyz = tmp_path / "chain.xyz"
    xyz.write_text("3\n\nH -1 0 0\nC 0 0 0\nO 0.3 1.35 0\n")
    options = ["--length-ps", "0.02", "--burn-in-ps", "0", "--n-replicas", "4", "--n-threads", "1"]
    argv = ["reference", str(bundle_path), "--potential", "sgdml:some.npz", "--start", str(xyz)]
    before = torch.get_num_threads()
    assert main([*argv, *options]) == 0
    torch.set_num_threads(before)
    assert "sgdml some.npz at 300 K" in capsys.readouterr().out
    bundle = load_bundle(bundle_path)
    assert bundle.card.reference_sha256 is not None
    assert bundle.reference["block_frames"].tolist() == [10] * 4


def test_verb_refuses_in_one_line(bundle_path, tmp_path, capsys):
    xyz = tmp_path / "nitrogen.xyz"
    xyz.write_text("2\n\nN 0 0 0\nN 0 0 1.1\n")
    argv = ["reference", str(bundle_path), "--potential", "sgdml:missing.npz", "--start", str(xyz)]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("egno-md: error: atom 0 is N")
    assert error.count("\n") == 1
    assert load_bundle(bundle_path).card.reference_sha256 is None


@pytest.mark.slow
def test_reference_of_ethanol_from_its_force_field(tmp_path):
    if "EGNO_MD_DATA" not in os.environ:
        pytest.skip("set EGNO_MD_DATA to the data folder to test with the ethanol force field")
    from egno_md.cli.reference import _example
    from egno_md.training.sources import open_potential, read_structure

    potential = open_potential(f"sgdml:{os.environ['EGNO_MD_DATA']}/md17/sgdml_model_ethanol.npz")
    plan = ReferencePlan(length_ps=0.5, burn_in_ps=0.5, n_replicas=16)
    found = make_reference(potential, read_structure(_example()), plan)
    lengths = dict(zip(map(tuple, found["bonds"].tolist()), found["bond_mean_A"], strict=True))
    assert float(lengths[0, 1]) == pytest.approx(1.53, abs=0.02)
    assert float(found["temperature_mean_K"]) == pytest.approx(300.0, rel=0.15)
