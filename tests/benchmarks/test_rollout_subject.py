"""Finding out what a bundle was taught by."""

import pytest

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.rollout_subject import egno_bundles, find_file, open_subjects, recorded
from egno_md.bundle import load_bundle


@pytest.fixture
def bundle():
    return load_bundle("ethanol-egno", kind="egno")


def with_training(bundle, **training):
    return bundle.card.model_copy(update={"training": training})


def test_the_packaged_propagators_are_the_default():
    found = [b.name for b in egno_bundles(BenchmarkConfig(name="rollouts"))]
    assert "ethanol-egno" in found
    assert "ethanol-escn" not in found
    with pytest.raises(ValueError, match="'egno' is needed"):
        egno_bundles(BenchmarkConfig(name="rollouts", bundles=("ethanol-escn",)))


@pytest.mark.parametrize(
    ("training", "potential"),
    [
        ({"potential": "sgdml:a.npz"}, ["sgdml:a.npz"]),
        ({"command": "egno-md train --potential sgdml:b.npz --structure b.xyz"}, ["sgdml:b.npz"]),
        ({"command": "egno-md train --structure c.xyz --potential=sgdml:c.npz"}, ["sgdml:c.npz"]),
        ({"command": "egno-md train train_alanine_dipeptide_egno.toml"}, ["openmm:amber14"]),
        ({"potential": ["a", "b"]}, ["a", "b"]),
        ({"command": "egno-md train --potential a b --seed 1"}, ["a", "b"]),
        ({"command": "egno-md train my_own.toml"}, []),
        ({"command": "egno-md train --data my.npz"}, []),
        ({}, []),
    ],
)
def test_what_the_card_says(bundle, training, potential):
    assert recorded(with_training(bundle, **training), "potential") == potential


def test_files_are_found_by_name(tmp_path):
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "model.npz"
    file.write_bytes(b"x")
    assert find_file("model.npz", str(tmp_path)) == file
    assert find_file(str(file), None) == file
    assert find_file("ethanol.xyz", None).parent.name == "examples"
    with pytest.raises(FileNotFoundError, match="give its folder by --data"):
        find_file("model.npz", None)
    with pytest.raises(FileNotFoundError, match="it is not in"):
        find_file("other.npz", str(tmp_path))


def test_a_given_potential_wins(bundle):
    config = BenchmarkConfig(name="rollouts", potentials=("ethanol-escn",))
    (subject,) = open_subjects(config, 0, bundle)
    assert (subject.name, subject.potential_name) == ("ethanol-egno", "ethanol-escn")
    assert type(subject.potential).__name__ == "ESCNPotential"
    assert subject.start.molecule.n_atoms == 9


def test_a_bundle_of_several_molecules_is_several_subjects(bundle):
    taught = {"potential": ["ase:emt", "ase:lj"], "structure": ["ethanol.xyz", "aspirin.xyz"]}
    both = type(bundle)(with_training(bundle, **taught), bundle.weights, {}, bundle.path)
    found = open_subjects(BenchmarkConfig(name="rollouts"), 0, both)
    assert [s.name for s in found] == ["ethanol-egno, ethanol", "ethanol-egno, aspirin"]
    assert [s.potential_name for s in found] == ["ase:emt", "ase:lj"]
    assert [s.start.molecule.n_atoms for s in found] == [9, 21]
    with pytest.raises(ValueError, match="1 potentials and 2 structures"):
        open_subjects(BenchmarkConfig(name="rollouts", potentials=("ase:emt",)), 0, both)


def test_a_bundle_without_a_teacher_needs_one(bundle):
    silent = type(bundle)(with_training(bundle), bundle.weights, bundle.reference, bundle.path)
    with pytest.raises(ValueError, match="does not say its potential; give --potentials"):
        open_subjects(BenchmarkConfig(name="rollouts"), 0, silent)
    config = BenchmarkConfig(name="rollouts", potentials=("ethanol-escn",))
    with pytest.raises(ValueError, match="--potentials has 1 entries"):
        open_subjects(config, 1, silent)
