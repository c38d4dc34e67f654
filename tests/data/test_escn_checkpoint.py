"""Checkpoints in the layout of the Open Catalyst project, made here, and hostile ones."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from egno_md.bundle import load_bundle
from egno_md.cli import main
from egno_md.data.escn_checkpoint import read_checkpoint
from egno_md.models.escn import ESCN
from egno_md.propagators.direct_force_potential import DirectForcePotential, load_potential
from egno_md.state import Molecule, State

ARGUMENTS = {
    "num_layers": 2,
    "lmax_list": [2],
    "mmax_list": [1],
    "sphere_channels": 4,
    "hidden_channels": 6,
    "edge_channels": 5,
    "max_num_elements": 20,
    "num_sphere_samples": 16,
    "cutoff": 6.0,
    "max_neighbors": 20,
    "distance_function": "gaussian",
    "distance_resolution": 0.2,
    "basis_width_scalar": 2.0,
    "use_pbc": True,
    "regress_forces": True,
    "otf_graph": True,
}
OLD_UNITS = {
    "target": {"mean": torch.tensor(-0.75), "std": torch.tensor(2.5)},
    "grad_target": {"mean": torch.tensor(0.0), "std": torch.tensor(2.5)},
}
NEW_UNITS = {
    "energy": {"mean": torch.tensor([-0.75]), "rmsd": torch.tensor([2.5])},
    "forces": {"mean": torch.tensor([0.0]), "rmsd": torch.tensor([2.5])},
}


def network(seed: int = 0) -> ESCN:
    torch.manual_seed(seed)
    net = ESCN(
        n_layers=2,
        max_degree=2,
        max_order=1,
        channels=4,
        hidden_channels=6,
        edge_channels=5,
        n_elements=20,
        n_points=16,
        cutoff_A=6.0,
        max_neighbours=20,
        n_gaussians=30,
        basis_width=2.0,
        elements=[1, 8],
        energy_scale_eV=2.5,
        energy_shift_eV=-0.75,
        force_scale_eV_A=2.5,
    )
    for name, weight in net.named_parameters():
        if "edge_block" in name and "embedding" in name:
            with torch.no_grad():
                weight[[1, 8]] += 0.5
        elif "fc" in name and weight.ndim == 2:
            torch.nn.init.normal_(weight, std=1.0 / weight.shape[1] ** 0.5)
    return net.requires_grad_(False)


def published_state(net: ESCN, prefix: str = "") -> OrderedDict[str, torch.Tensor]:
    """A `state_dict` in the published order, with what the published code has twice."""
    state = net.state_dict()
    order = ["sphere_points", "sphere_embedding.weight", "distance_expansion.offset"]
    order += [k for k in state if k.startswith("layer_blocks")]
    order += [k for k in state if k.startswith(("energy_block", "force_block"))]
    found: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name in [*order, "sphharm_weights.0"]:
        found[prefix + name] = state[name]
        if name.endswith("edge_block.fc1_dist.bias"):
            place = name.removesuffix("fc1_dist.bias") + "distance_expansion.offset"
            found[prefix + place] = state["distance_expansion.offset"]
    found._metadata = state._metadata  # as torch writes it beside the weights
    return found


def checkpoint(net: ESCN, prefix: str = "", **changes: object) -> dict[str, object]:
    content = {
        "epoch": 3,
        "step": 100,
        "state_dict": published_state(net, prefix),
        "config": {"model": "escn", "model_attributes": dict(ARGUMENTS)},
        "normalizers": OLD_UNITS,
        "val_metrics": {"forces_mae": {"metric": 0.02, "numel": 10}},
        "amp": None,
    } | changes
    return {k: v for k, v in content.items() if v is not None or k == "amp"}


def shadow(net: ESCN) -> list[torch.Tensor]:
    """Averaged weights in the order of the trained parameters: twice the last ones."""
    skipped = ("sphere_points", "sphharm", "offset")
    return [2 * t for k, t in published_state(net).items() if not any(s in k for s in skipped)]


def save(folder: Path, content: object) -> Path:
    path = folder / "model.pt"
    torch.save(content, path)
    return path


def same(found: object, net: ESCN, factor: float = 1.0) -> bool:
    state = net.state_dict()
    trained = {k for k, p in net.named_parameters() if k.endswith(("weight", "bias"))}
    return found.weights.keys() == state.keys() and all(
        torch.equal(found.weights[k], state[k] * (factor if k in trained else 1.0)) for k in state
    )


def new_config(**more: object) -> dict[str, object]:
    return {"model": {"name": "escn", **ARGUMENTS, **more}}


LAYOUTS = {
    "old": {},
    "one prefix": {"prefix": "module."},
    "two prefixes": {"prefix": "module.module."},
    "new names of units": {"normalizers": NEW_UNITS},
    "new config": {"config": new_config()},
    "old argument": {"config": new_config(use_grid=True, show_timing_info=False)},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_network_it_was_made_from(tmp_path, name):
    net = network()
    found = read_checkpoint(save(tmp_path, checkpoint(net, **LAYOUTS[name])))
    assert same(found, net)
    assert ESCN(**found.settings).architecture() == net.architecture()
    assert "none in the file" in found.record["averaged weights (EMA)"]
    assert "energy x 2.5 + -0.75 eV, forces x 2.5 eV/Å" in found.record["normalisers"]
    assert ("new names" if "units" in name else "old names") in found.record["normalisers"]


def test_the_order_of_weights_is_the_published_one(tmp_path):
    # 93 trained tensors of a network with two layers and M = 2, as the published code counts.
    net = ESCN(max_degree=2, max_order=2, n_layers=2, channels=4, hidden_channels=4)
    assert len(shadow(net)) == 93


@pytest.mark.parametrize(
    ("choice", "factor", "words"),
    [
        ("auto", 2.0, "applied (auto): "),
        ("apply", 2.0, "applied (apply): "),
        ("ignore", 1.0, "ignored"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_averaged_weights_are_taken_or_left(tmp_path, choice, factor, words, prefix):
    net = network()
    ema = {"decay": 0.999, "num_updates": 100, "shadow_params": shadow(net)}
    path = save(tmp_path, checkpoint(net, prefix, ema=ema))
    found = read_checkpoint(path, ema=choice)
    assert same(found, net, factor)
    assert found.record["averaged weights (EMA)"].startswith(words)


def test_averaged_weights_that_do_not_fit_are_refused(tmp_path):
    net = network()
    with pytest.raises(ValueError, match="'apply', but the file has no averaged weights"):
        read_checkpoint(save(tmp_path, checkpoint(net)), ema="apply")
    short = {"decay": 0.999, "shadow_params": shadow(net)[1:]}
    with pytest.raises(ValueError, match=r"68 averaged weights for 69 trained ones"):
        read_checkpoint(save(tmp_path, checkpoint(net, ema=short)))
    swapped = shadow(net)
    swapped[0], swapped[1] = swapped[1], swapped[0]
    with pytest.raises(ValueError, match=r"place of 'sphere_embedding.weight' has shape"):
        read_checkpoint(save(tmp_path, checkpoint(net, ema={"shadow_params": swapped})))


def test_constants_that_old_files_lack_are_made(tmp_path):
    net = network()
    content = checkpoint(net)
    for name in ("sphere_points", "sphharm_weights.0"):
        del content["state_dict"][name]
    found = read_checkpoint(save(tmp_path, content))
    assert found.settings["n_points"] == 16
    for name, tensor in net.state_dict().items():
        assert torch.allclose(found.weights[name], tensor, rtol=0, atol=1e-6), name


def test_units_from_the_config_of_old_files(tmp_path):
    units = {
        "normalize_labels": True,
        "target_mean": -0.75,
        "target_std": 2.5,
        "grad_target_mean": 0.0,
        "grad_target_std": 2.5,
    }
    for dataset in (units, [units, {"src": "val"}], {"train": units}):
        config = {"model": "escn", "model_attributes": ARGUMENTS, "dataset": dataset}
        content = checkpoint(network(), normalizers=None, config=config)
        found = read_checkpoint(save(tmp_path, content))
        assert found.settings["energy_scale_eV"] == 2.5
        assert "config" in found.record["normalisers"]


def test_a_file_without_units_is_refused_unless_said(tmp_path):
    path = save(tmp_path, checkpoint(network(), normalizers={}))
    with pytest.raises(ValueError, match=r"units of the outputs are not known.*--unnormalised"):
        read_checkpoint(path)
    found = read_checkpoint(path, unnormalised=True)
    assert found.settings["energy_scale_eV"] == 1.0
    assert found.settings["energy_shift_eV"] == 0.0


def test_energies_of_the_elements_are_kept(tmp_path):
    table = torch.linspace(0.0, -11.8, 119)
    found = read_checkpoint(
        save(tmp_path, checkpoint(network(), elementrefs={"energy": {"element_references": table}}))
    )
    assert found.settings["reference_energies_eV"] == pytest.approx([-0.1 * z for z in range(20)])
    wrong = {"energy": {"element_references": table[:5]}}
    with pytest.raises(ValueError, match="each of the 20 elements"):
        read_checkpoint(save(tmp_path, checkpoint(network(), elementrefs=wrong)))


def test_elements_are_found_or_given(tmp_path):
    path = save(tmp_path, checkpoint(network()))
    assert read_checkpoint(path).settings["elements"] == [1, 8]
    assert read_checkpoint(path, elements=[8, 6]).settings["elements"] == [6, 8]
    fresh = ESCN.from_architecture(network().architecture())
    found = read_checkpoint(save(tmp_path, checkpoint(fresh)))
    assert found.settings["elements"] == list(range(1, 20))
    assert "none looks trained" in found.record["elements"]


def units(**changes: object) -> dict[str, object]:
    return {"normalizers": OLD_UNITS | changes}


WRONG = {
    "other model": ({"config": {"model": "gemnet_oc"}}, "model is 'gemnet_oc'"),
    "no config": ({"config": None}, "needs 'config'"),
    "no weights": ({"state_dict": None}, "needs 'state_dict'; this one holds"),
    "weights": ({"state_dict": {"a": 3}}, "'a' does not"),
    "layers": ({"config": new_config(num_layers=3)}, "num_layers is 3, the weights say 2"),
    "degree": ({"config": new_config(lmax_list=[4])}, r"lmax_list is \[4\], the weights say \[2\]"),
    "resolutions": ({"config": new_config(lmax_list=[2, 2])}, "lmax_list"),
    "cutoff": ({"config": new_config(cutoff=12.0)}, "cutoff is 12.0, the weights say 6"),
    "basis": ({"config": new_config(distance_function="silu")}, "only 'gaussian' is supported"),
    "no forces": ({"config": new_config(regress_forces=False)}, "regress_forces"),
    "no cell": ({"config": new_config(use_pbc=False)}, "use_pbc"),
    "argument": ({"config": new_config(use_magic=1)}, "'use_magic' is not known"),
    "half": ({"normalizers": {"target": OLD_UNITS["target"]}}, "'grad_target' is missing"),
    "both": ({"normalizers": OLD_UNITS | NEW_UNITS}, "old and new names"),
    "mean force": (units(grad_target={"mean": 0.1, "std": 1.0}), "mean of 0.1; it must be 0"),
    "no spread": (units(target={"mean": 0.0}), "needs 'mean' and 'rmsd'"),
    "spread 0": (units(target={"mean": 0.0, "std": 0.0}), "must be positive"),
    "nan": (units(target={"mean": float("nan"), "std": 1.0}), "one finite number"),
    "two": (units(target={"mean": torch.zeros(2), "std": 1.0}), "one finite number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(tmp_path, name):
    changes, words = WRONG[name]
    path = save(tmp_path, checkpoint(network(), **changes))
    with pytest.raises(ValueError, match=words) as error:
        read_checkpoint(path)
    assert "model.pt: " in str(error.value)


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["alone", "config", "optimizer"])
def test_a_hostile_pickle_is_refused_and_nothing_runs(tmp_path, place, legacy, capsys):
    mark = tmp_path / "it-ran"
    content = checkpoint(network()) | {place: Hostile(mark)}
    path = tmp_path / "model.pt"
    torch.save(
        Hostile(mark) if place == "alone" else content,
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    assert main(["convert", str(path), "--out", str(tmp_path / "new.bundle")]) == 2
    error = capsys.readouterr().err
    assert "mkdir" in error
    assert "refused and nothing in it has run" in error
    assert error.count("\n") == 1
    assert not mark.exists()
    assert not (tmp_path / "new.bundle").exists()
    torch.load(path, weights_only=False)  # it would have run
    assert mark.exists()


def test_numpy_objects_are_refused_with_advice(tmp_path):
    path = save(tmp_path, checkpoint(network(), best_val_metric=np.float64(0.1)))
    with pytest.raises(ValueError, match=r"numpy.*save its state_dict, ema, config"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 and then junk", b"\x80\x02."])
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.pt: "):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match="a folder"):
        read_checkpoint(tmp_path)


def test_a_list_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="a checkpoint is a dictionary, got list"):
        read_checkpoint(save(tmp_path, [1, 2]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_command_makes_a_bundle_that_is_a_potential(tmp_path, capsys, dtype):
    net = network()
    path = save(tmp_path, checkpoint(net))
    out = tmp_path / "oc20.bundle"
    assert main(["convert", str(path), "--out", str(out), "--dtype", dtype]) == 0
    printed = capsys.readouterr().out
    assert "averaged weights (EMA): none in the file" in printed
    bundle = load_bundle(out, kind="escn")
    assert bundle.card.elements == [1, 8]
    assert bundle.card.dtype == dtype
    assert "not the gradient" in bundle.card.training["forces"]
    assert len(bundle.card.training["sha256 of that file"]) == 64
    cell = torch.diag(torch.tensor([7.0, 7.0, 9.0], dtype=torch.float64))
    molecule = Molecule.from_numbers([8, 1, 1], pbc=(True, True, True))
    places = torch.tensor([[[0.0, 0, 0], [0, 0.96, 0], [0.93, -0.24, 0]]], dtype=torch.float64)
    state = State.at_rest(molecule, places, cell=cell)
    found = load_potential(out, dtype=torch.float64).evaluate(state)
    wanted = DirectForcePotential(net, dtype=torch.float64).evaluate(state)
    assert torch.allclose(found.energy, wanted.energy, rtol=0, atol=1e-12)
    assert torch.allclose(found.forces, wanted.forces, rtol=0, atol=1e-12)
    assert main(["inspect", str(out)]) == 0
    assert "not the gradient" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--elements", "Qq"], "'Qq' is no chemical element"),
        (["--elements", "Cu"], "atomic numbers from 1 to 19"),
        (["--ema", "maybe"], "ema"),
        (["--out", "bad name.bundle"], "name"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, capsys, monkeypatch, more, words):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path, checkpoint(network()))
    assert main(["convert", str(path), *more]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt"]
