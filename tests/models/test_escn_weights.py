"""Names and shapes of published weights: read off, checked, completed."""

from __future__ import annotations

import math

import pytest
import torch

from egno_md.models.escn import ESCN
from egno_md.models.escn_weights import (
    complete_weights,
    expected_shapes,
    plain_names,
    settings_from_weights,
    trained_elements,
)

SMALL = {"channels": 4, "hidden_channels": 6, "edge_channels": 5, "n_gaussians": 12}
SIZES = [(2, 2, 2), (4, 2, 1), (6, 3, 1), (1, 0, 3), (3, 1, 2)]


def small(degree=2, order=2, layers=2, **more):
    torch.manual_seed(0)
    sizes = {"max_degree": degree, "max_order": order, "n_layers": layers, "n_points": 16}
    return ESCN(**SMALL, **sizes, cutoff_A=6.0, n_elements=20, **more)


@pytest.mark.parametrize(("degree", "order", "layers"), SIZES)
def test_sizes_come_back_from_shapes(degree, order, layers):
    model = small(degree, order, layers)
    state = model.state_dict()
    settings = settings_from_weights(state)
    assert settings["cutoff_A"] == 6.0
    assert settings.items() <= model.architecture().items()
    assert expected_shapes(settings) == {k: tuple(t.shape) for k, t in state.items()}
    whole = complete_weights(state, settings)
    assert whole.keys() == state.keys()
    assert all(torch.equal(whole[k], state[k]) for k in state)
    again = ESCN(**settings)
    again.load_state_dict(whole)
    assert again.architecture() == model.architecture()


@pytest.mark.parametrize(
    ("degree", "order", "layers", "channels", "hidden", "count"),
    [
        (4, 2, 12, 128, 256, 36_109_312),
        (6, 2, 12, 128, 256, 51_837_952),
        (6, 3, 20, 160, 384, 200_227_840),
    ],
)
def test_published_sizes_have_the_published_number_of_weights(
    degree, order, layers, channels, hidden, count
):
    shapes = expected_shapes(
        {
            "max_degree": degree,
            "max_order": order,
            "n_layers": layers,
            "channels": channels,
            "hidden_channels": hidden,
            "edge_channels": 128,
            "n_gaussians": 600,
            "n_elements": 90,
            "n_points": 128,
        }
    )
    constants = {"sphere_points", "sphharm_weights.0", "distance_expansion.offset"}
    assert sum(math.prod(s) for k, s in shapes.items() if k not in constants) == count


def test_what_a_file_lacks_is_made_and_what_it_has_twice_is_dropped():
    state = small().state_dict()
    settings = settings_from_weights(state)
    file = dict(state)
    for name in ("sphere_points", "sphharm_weights.0", "distance_expansion.offset"):
        del file[name]
    doubled = "layer_blocks.1.message_block.edge_block.distance_expansion.offset"
    file[doubled] = state["distance_expansion.offset"]
    file["SO3_grid.0.0.to_grid_mat"] = torch.zeros(3)
    assert "cutoff_A" not in settings_from_weights(file)
    assert settings_from_weights(file)["n_points"] == 128
    whole = complete_weights(file, settings)
    for name, tensor in state.items():
        assert torch.allclose(whole[name], tensor, rtol=0, atol=1e-6), name
    file[doubled] = file[doubled] * 1.01
    with pytest.raises(ValueError, match=r"layer_blocks.1.*equal steps from 0 to 6 Å"):
        complete_weights(file, settings)


def test_points_of_a_file_are_kept():
    state = small().state_dict()
    moved = state["sphere_points"] * 1.5
    file = {k: t for k, t in state.items() if k != "sphharm_weights.0"} | {"sphere_points": moved}
    whole = complete_weights(file, settings_from_weights(file))
    assert torch.equal(whole["sphere_points"], moved)
    first = [t["sphharm_weights.0"][:, 1:4] for t in (whole, state)]
    assert torch.allclose(first[0], 1.5 * first[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_prefixes_of_parallel_training_go(prefix):
    state = small().state_dict()
    assert plain_names({prefix + k: t for k, t in state.items()}).keys() == state.keys()


def test_a_name_with_and_without_prefix_is_refused():
    one = torch.zeros(1)
    with pytest.raises(ValueError, match="'a' is there twice"):
        plain_names({"a": one, "module.a": one})


BROKEN = {
    "missing": (lambda s: s.pop("energy_block.fc3.weight"), "missing.*energy_block.fc3"),
    "unknown": (lambda s: s.update({"norm.weight": torch.ones(3)}), "'norm.weight' is not part"),
    "shape": (
        lambda s: s.update({"force_block.fc1.bias": torch.ones(3)}),
        r"fc1.bias' must have shape \(4,\), got \(3,\)",
    ),
    "nan": (
        lambda s: s.update({"force_block.fc1.bias": torch.full((4,), float("nan"))}),
        "fc1.bias' must hold finite",
    ),
    "whole numbers": (
        lambda s: s.update({"force_block.fc1.bias": torch.ones(4, dtype=torch.int64)}),
        "floating-point",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_is_named(name):
    spoil, words = BROKEN[name]
    state = dict(small().state_dict())
    settings = settings_from_weights(state)
    spoil(state)
    with pytest.raises(ValueError, match=words):
        complete_weights(state, settings)


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match=r"no eSCN weights: 'sphere_embedding.weight' is missing"):
        settings_from_weights({"embedding.weight": torch.zeros(3, 3)})
    state = dict(small().state_dict())
    state["sphere_embedding.weight"] = torch.zeros(5)
    with pytest.raises(ValueError, match="must be a matrix"):
        settings_from_weights(state)
    state["sphere_embedding.weight"] = torch.zeros(20, 7)
    with pytest.raises(ValueError, match="no whole number of degrees"):
        settings_from_weights(state)


def test_elements_that_training_has_moved_are_found():
    state = small().state_dict()
    assert trained_elements(state) == []
    for k, z, part in ((0, 8, "source"), (1, 1, "target")):
        table = state[f"layer_blocks.{k}.message_block.edge_block.{part}_embedding.weight"]
        table[z, 2] = -0.02
    assert trained_elements(state) == [1, 8]
    assert trained_elements({}) == []
