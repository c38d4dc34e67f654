from __future__ import annotations

import numpy as np
import pytest
import torch

from egno_md.bundle import load_bundle
from egno_md.calculators.torchscript_energy import MOST_ATOMS, as_torchscript
from egno_md.propagators.escn_potential import ESCNPotential
from tests.calculators.openmm_waters import Counting, asked_directly, save_water_bundle, waters

BOX = np.array([[0.7, 0.0, 0.0], [0.1, 0.66, 0.0], [-0.1, 0.05, 0.68]])


@pytest.fixture(scope="module")
def potential(tmp_path_factory):
    folder = save_water_bundle(tmp_path_factory.mktemp("models") / "water.bundle")
    return ESCNPotential(load_bundle(folder), dtype=torch.float64)


@pytest.fixture(scope="module")
def boxed(potential):
    numbers = waters(8)[1]
    return as_torchscript(potential, numbers, periodic=True, scaled=True)


@pytest.fixture(scope="module")
def some(potential):
    return as_torchscript(potential, [1, 8, 1], [4, 3, 5])


@pytest.mark.parametrize("shelter", [torch.enable_grad, torch.no_grad])
def test_the_chosen_atoms_in_the_open(potential, some, shelter):
    energy, forces = asked_directly(potential, waters(3)[0][[4, 3, 5]], [1, 8, 1])
    for x in (waters(3)[0], waters(3)[0] + 0.5):
        with shelter():
            found = some(torch.from_numpy(x))
            assert torch.is_grad_enabled() == (shelter is torch.enable_grad)
        assert float(found[0]) == pytest.approx(energy, rel=1e-9)
        assert not found[0].requires_grad
        np.testing.assert_allclose(found[1][[4, 3, 5]], forces, rtol=0, atol=1e-6)
        assert float(found[1][[0, 1, 2, 6, 7, 8]].abs().max()) == 0.0


def test_in_a_box_with_a_scale(potential, boxed):
    for seed in (1, 2):
        x, numbers = waters(8, seed=seed)
        energy, forces = asked_directly(potential, x, numbers, BOX)
        assert abs(energy - asked_directly(potential, x, numbers)[0]) > 1e-4
        x[3] += 2 * BOX[0] - BOX[2]  # images are found from anywhere
        found = boxed(torch.from_numpy(x), torch.from_numpy(BOX), torch.tensor(0.5))
        assert float(found[0]) == pytest.approx(0.5 * energy, rel=1e-9)
        np.testing.assert_allclose(found[1], 0.5 * forces, rtol=0, atol=1e-6)


def test_dtypes_are_the_callers(some):
    x = torch.from_numpy(waters(3)[0])
    for dtype in (torch.float32, torch.float64):
        assert some(x.to(dtype))[1].dtype == dtype


def test_a_thin_box_is_an_error(boxed):
    x, one = torch.from_numpy(waters(8)[0]), torch.tensor(1.0)
    with pytest.raises(Exception, match="thinner than two cutoffs"):
        boxed(x, torch.from_numpy(0.9 * BOX), one)
    assert torch.is_grad_enabled()  # the caller's setting is left as it was
    # Edges long enough, but so skew that planes are close.
    skew = torch.tensor([[0.7, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.7]], dtype=torch.float64)
    with pytest.raises(Exception, match="thinner than two cutoffs"):
        boxed(x, skew, one)


def test_bad_positions_are_errors(some):
    x = torch.from_numpy(waters(3)[0])
    x[4] = x[3]
    with pytest.raises(Exception, match="in one place"):
        some(x)
    x[4, 0] = float("nan")
    with pytest.raises(Exception, match="not finite"):
        some(x)
    assert torch.is_grad_enabled()


def test_what_cannot_be_written_is_refused(potential):
    with pytest.raises(ValueError, match=r"only an ESCNPotential .* got Counting"):
        as_torchscript(Counting(), [8])
    with pytest.raises(ValueError, match="201 atoms are too many"):
        as_torchscript(potential, [1] * (MOST_ATOMS + 1))


def test_a_lone_atom(potential):
    energy, forces = as_torchscript(potential, [8])(torch.zeros(1, 3, dtype=torch.float64))
    assert float(energy) == pytest.approx(asked_directly(potential, np.zeros((1, 3)), [8])[0])
    assert float(forces.abs().max()) == 0.0
