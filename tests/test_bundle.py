import hashlib
import json
import os
import struct
import zipfile

import pytest
import torch

from egno_md import bundle as bundle_module
from egno_md.bundle import (
    Bundle,
    build_model,
    find_bundle,
    load_bundle,
    packaged_bundles,
    save_bundle,
)
from egno_md.bundle_card import (
    FORMAT_VERSION,
    UNITS,
    card_as_markdown,
)
from egno_md.models.escn_md import ESCNMD
from egno_md.state import Molecule
from tests.small_bundle import edit_card, saved, small_card, small_model


@pytest.fixture
def model():
    return small_model()


@pytest.fixture
def card(model):
    return small_card(model)


@pytest.fixture
def folder(tmp_path, model, card):
    return saved(tmp_path / "small.bundle", model, card)


def replace_weights(folder, data):
    """Put other bytes in place of the weights, with the right hash on the card."""
    (folder / "weights.safetensors").write_bytes(data)
    edit_card(folder, weights_sha256=hashlib.sha256(data).hexdigest())


def safetensors_bytes(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


class TestRoundTrip:
    def test_weights_card_and_reference_come_back(self, folder, model, card):
        bundle = load_bundle(folder)
        assert bundle.card.elements == [1, 6, 8]
        assert bundle.card.training == {"data": "none", "seed": 1}
        assert bundle.card.held_out == card.held_out
        assert bundle.card.units == dict(UNITS)
        assert bundle.card.versions["torch"] == torch.__version__
        assert bundle.path == folder
        torch.testing.assert_close(
            bundle.reference["bond_0_1"], torch.linspace(0.0, 1.0, 5), rtol=0, atol=0
        )
        for name, tensor in model.state_dict().items():
            assert torch.equal(bundle.weights[name], tensor)

    def test_the_model_is_the_same(self, folder, model):
        built = build_model(load_bundle(folder))
        assert isinstance(built, ESCNMD)
        assert not built.training
        assert built.architecture() == model.architecture()
        for name, tensor in model.state_dict().items():
            assert torch.equal(built.state_dict()[name], tensor)

    def test_the_number_type_is_the_cards(self, tmp_path, model, card):
        double = {k: v.double() for k, v in model.state_dict().items()}
        saved = save_bundle(tmp_path / "d", card.model_copy(update={"dtype": "float64"}), double)
        built = build_model(load_bundle(saved))
        assert {p.dtype for p in built.parameters()} == {torch.float64}

    def test_building_leaves_the_random_stream_alone(self, folder):
        bundle = load_bundle(folder)
        before = torch.get_rng_state()
        build_model(bundle)
        assert torch.equal(before, torch.get_rng_state())

    def test_hashes_are_those_of_the_files(self, folder):
        card = load_bundle(folder).card
        for name, stated in (
            ("weights.safetensors", card.weights_sha256),
            ("reference.safetensors", card.reference_sha256),
        ):
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == stated

    def test_saving_the_same_twice_gives_the_same_bytes(self, tmp_path, model, card):
        a = save_bundle(tmp_path / "a", card, model.state_dict())
        b = save_bundle(tmp_path / "b", card, model.state_dict())
        for name in ("bundle.json", "weights.safetensors", "CARD.md"):
            assert (a / name).read_bytes() == (b / name).read_bytes()

    def test_tied_weights_can_be_saved(self, tmp_path, card):
        shared = torch.ones(3)
        saved = save_bundle(tmp_path / "t", card, {"a": shared, "b": shared[:2]})
        assert torch.equal(load_bundle(saved).weights["b"], torch.ones(2))

    def test_a_bundle_without_reference_has_no_reference_file(self, tmp_path, model, card):
        saved = save_bundle(tmp_path / "r", card, model.state_dict())
        assert sorted(p.name for p in saved.iterdir()) == [
            "CARD.md",
            "bundle.json",
            "weights.safetensors",
        ]
        assert load_bundle(saved).reference == {}


class TestSaving:
    def test_a_bundle_is_replaced_whole(self, tmp_path, folder, model, card):
        save_bundle(folder, card.model_copy(update={"name": "second"}), model.state_dict())
        assert load_bundle(folder).name == "second"
        assert not (folder / "reference.safetensors").exists()
        assert [p.name for p in tmp_path.iterdir()] == ["small.bundle"]

    def test_other_folders_and_files_are_left_alone(self, tmp_path, model, card):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "cat.jpg").write_text("cat")
        with pytest.raises(ValueError, match="files that are not a bundle"):
            save_bundle(tmp_path / "photos", card, model.state_dict())
        assert (tmp_path / "photos" / "cat.jpg").read_text() == "cat"
        with pytest.raises(ValueError, match="is a file"):
            save_bundle(tmp_path / "photos" / "cat.jpg", card, model.state_dict())

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_a_disk_that_refuses_leaves_the_old_bundle(
        self, tmp_path, folder, model, card, monkeypatch, call
    ):
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        real, calls = getattr(os, call), []

        def refuse(*args):
            calls.append(args)
            if len(calls) == 2:  # the second file, or the second of the two renames
                raise OSError(28, "No space left on device")
            return real(*args)

        monkeypatch.setattr(os, call, refuse)
        with pytest.raises(OSError, match="No space left"):
            save_bundle(folder, card.model_copy(update={"name": "new"}), model.state_dict())
        monkeypatch.undo()
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
        assert [p.name for p in tmp_path.iterdir()] == ["small.bundle"]

    def test_weights_that_are_not_finite_are_not_saved(self, tmp_path, model, card):
        weights = model.state_dict()
        name = next(k for k, v in weights.items() if v.is_floating_point())
        weights[name] = torch.full_like(weights[name], float("nan"))
        with pytest.raises(ValueError, match=f"tensor '{name}' holds numbers that are not finite"):
            save_bundle(tmp_path / "x", card, weights)
        assert list(tmp_path.iterdir()) == []

    def test_nothing_to_save_is_refused(self, tmp_path, card):
        with pytest.raises(ValueError, match="no weights"):
            save_bundle(tmp_path / "x", card, {})


class TestFinding:
    def test_unknown_name_lists_the_packaged(self, monkeypatch, tmp_path):
        monkeypatch.setattr(
            bundle_module, "packaged_bundles", lambda: {"one": tmp_path, "two": tmp_path}
        )
        with pytest.raises(FileNotFoundError, match=r"no bundle 'three'.*packaged are: one, two"):
            load_bundle("three")
        assert find_bundle("one") == tmp_path

    @pytest.mark.parametrize("name", ["", "../../etc", "a\0b", "~", "x" * 5000])
    def test_odd_names_are_not_found(self, name):
        with pytest.raises(FileNotFoundError, match="no bundle"):
            load_bundle(name)

    def test_a_zip_in_place_of_a_folder(self, tmp_path, folder):
        file = tmp_path / "small.zip"
        with zipfile.ZipFile(file, "w") as archive:
            archive.write(folder / "bundle.json", "bundle.json")
        with pytest.raises(ValueError, match="is a file; a bundle is a folder"):
            load_bundle(file)

    def test_packaged_bundles_load_and_build(self):
        for name, path in packaged_bundles().items():
            bundle = load_bundle(name)
            assert bundle.name == name
            assert sum(p.stat().st_size for p in path.iterdir()) < 3_000_000
            assert (path / "CARD.md").read_text() == card_as_markdown(bundle.card)
            made_by = ("egno-md train", "egno-md benchmark potentials")
            assert bundle.card.training["command"].startswith(made_by)
            build_model(bundle)


class TestRefusals:
    @pytest.mark.parametrize(
        "name", ["bundle.json", "weights.safetensors", "reference.safetensors"]
    )
    def test_missing_file(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"has no {name}"):
            load_bundle(folder)

    @pytest.mark.parametrize(
        "name", ["bundle.json", "weights.safetensors", "reference.safetensors"]
    )
    def test_link_out_of_the_folder(self, tmp_path, folder, name):
        outside = tmp_path / name
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)
        with pytest.raises(ValueError, match="link that leads out of the bundle"):
            load_bundle(folder)

    def test_link_within_the_folder_is_fine(self, folder):
        (folder / "weights.safetensors").rename(folder / "w")
        (folder / "weights.safetensors").symlink_to("w")
        assert load_bundle(folder).name == "small-escn"

    def test_dangling_link_and_fifo_do_not_hang(self, folder):
        (folder / "weights.safetensors").unlink()
        os.mkfifo(folder / "weights.safetensors")
        with pytest.raises(ValueError, match="not a plain file"):
            load_bundle(folder)
        (folder / "weights.safetensors").unlink()
        (folder / "weights.safetensors").symlink_to("nowhere")
        with pytest.raises(ValueError, match="not a plain file"):
            load_bundle(folder)

    def test_newer_format_names_both_versions(self, folder):
        edit_card(folder, format_version=FORMAT_VERSION + 6, something_new=1)
        with pytest.raises(ValueError, match="format version 7; this release reads up to 1"):
            load_bundle(folder)

    def test_wrong_kind_names_both(self, folder):
        assert load_bundle(folder, "escn").card.kind == "escn"
        with pytest.raises(ValueError, match="is of kind 'escn'; 'egno' is needed"):
            load_bundle(folder, "egno")

    def test_every_flipped_byte_of_the_weights_is_found(self, folder):
        file = folder / "weights.safetensors"
        good = file.read_bytes()
        for position in range(0, len(good), max(1, len(good) // 50)):
            bad = bytearray(good)
            bad[position] ^= 1
            file.write_bytes(bytes(bad))
            with pytest.raises(ValueError, match="sha256"):
                load_bundle(folder)

    def test_truncated_weights_are_found(self, folder):
        file = folder / "weights.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(ValueError, match="sha256"):
            load_bundle(folder)

    def test_card_truncated_anywhere_is_refused(self, folder):
        file = folder / "bundle.json"
        text = file.read_bytes().rstrip()
        for length in range(0, len(text), 7):
            file.write_bytes(text[:length])
            with pytest.raises(ValueError, match="not valid JSON"):
                load_bundle(folder)

    def test_too_large_files_are_not_read(self, folder, monkeypatch):
        with pytest.raises(ValueError, match=r"weights\.safetensors is larger than the 100 bytes"):
            load_bundle(folder, max_weights_bytes=100)
        (folder / "bundle.json").write_bytes(b" " * 1_000_001)
        with pytest.raises(ValueError, match=r"bundle\.json is larger than"):
            load_bundle(folder)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "not a safetensors file"),
            (b"\x80\x04\x95pickle-like bytes....", "header of"),
            (struct.pack("<Q", 2**60) + b"{}", "has a header of 1152921504606846976 bytes"),
            (struct.pack("<Q", 11 * 2**20) + b"{}", "has a header of 11534336 bytes"),
            (safetensors_bytes(b"{}"), "holds no tensors"),
            (safetensors_bytes(b"not json"), "not a safetensors file"),
            (
                safetensors_bytes({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
                "not a safetensors file",
            ),
            (
                safetensors_bytes(
                    {"a": {"dtype": "F32", "shape": [9**9, 9**9], "data_offsets": [0, 4]}},
                    b"\0" * 4,
                ),
                "not a safetensors file",
            ),
            (
                safetensors_bytes(
                    {"a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4
                ),
                "'a' is torch.float16",
            ),
            (
                safetensors_bytes(
                    {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
                    struct.pack("<f", float("nan")),
                ),
                "'a' holds numbers that are not finite",
            ),
        ],
    )
    def test_hostile_weights_with_a_right_hash(self, folder, data, message):
        replace_weights(folder, data)
        with pytest.raises(ValueError, match=message):
            load_bundle(folder)

    def test_a_pickle_is_never_executed(self, folder, tmp_path):
        import pickle

        class Payload:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "executed"),))

        replace_weights(folder, pickle.dumps(Payload()))
        with pytest.raises(ValueError, match="weights"):
            load_bundle(folder)
        assert not (tmp_path / "executed").exists()


class TestModelAndWeights:
    def test_missing_unknown_and_misshapen_weights_are_named(self, folder):
        bundle = load_bundle(folder)
        name = next(k for k, v in bundle.weights.items() if v.ndim == 2)

        def with_weights(weights):
            return Bundle(bundle.card, weights, {}, folder)

        fewer = {k: v for k, v in bundle.weights.items() if k != name}
        with pytest.raises(ValueError, match=f"weight '{name}' of its architecture is missing"):
            build_model(with_weights(fewer))
        more = bundle.weights | {"extra": torch.zeros(1)}
        with pytest.raises(ValueError, match="weight 'extra' is not part of its architecture"):
            build_model(with_weights(more))
        shape = tuple(bundle.weights[name].shape)
        turned = bundle.weights | {name: torch.zeros(shape[0] + 1, shape[1])}
        with pytest.raises(ValueError, match=f"weight '{name}' has shape") as error:
            build_model(with_weights(turned))
        assert str(shape) in str(error.value)

    @pytest.mark.parametrize(
        "setting", [{"channels": 10**6}, {"radial_hidden": 10**7}, {"n_layers": 10**9}]
    )
    def test_an_enormous_architecture_is_stopped_early(self, folder, card, setting):
        edit_card(folder, architecture=card.architecture | setting)
        with pytest.raises(ValueError, match="architecture is not understood"):
            build_model(load_bundle(folder))

    def test_an_unknown_setting_is_refused(self, folder, card):
        edit_card(folder, architecture=card.architecture | {"magic": 3})
        with pytest.raises(ValueError, match=r"architecture is not understood.*magic"):
            build_model(load_bundle(folder))

    def test_elements(self, folder):
        bundle = load_bundle(folder)
        bundle.check_elements(Molecule.from_numbers([6, 1, 8]))
        with pytest.raises(ValueError, match=r"atom 2 is N, .*'small-escn'.*it knows H, C, O"):
            bundle.check_elements(Molecule.from_numbers([6, 1, 7]))

    def test_every_architecture_has_its_class(self):
        import importlib

        from egno_md.bundle_card import ARCHITECTURES

        named = {name for names in ARCHITECTURES.values() for name in names}
        assert set(bundle_module._MODEL_CLASSES) == named
        for module, cls in bundle_module._MODEL_CLASSES.values():
            found = getattr(importlib.import_module(module), cls)
            assert hasattr(found, "from_architecture")
            assert hasattr(found, "architecture")
