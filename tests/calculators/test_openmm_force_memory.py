"""Long use of a force with a network leaks nothing worth speaking of."""

from __future__ import annotations

import copy

import openmm
import pytest

from egno_md.calculators.openmm_force import openmm_force
from tests.calculators.openmm_waters import (
    context_of,
    energy_forces,
    save_water_bundle,
    system_of,
    waters,
)
from tests.calculators.resident_memory import resident_MB


@pytest.mark.slow
def test_5000_steps_grow_the_process_by_less_than_5_percent(tmp_path):
    x, numbers = waters(2)
    force = openmm_force(save_water_bundle(tmp_path / "water.bundle"), numbers, device="cpu")
    integrator = openmm.LangevinMiddleIntegrator(300.0, 10.0, 0.0005)
    context = context_of(system_of(numbers, force), x, integrator=integrator)
    integrator.step(500)
    before = resident_MB()
    integrator.step(5000)
    assert resident_MB() < 1.05 * before
    assert context.getStepCount() == 5500


def test_50_clones_grow_the_process_by_less_than_20_MB(tmp_path):
    bundle = save_water_bundle(tmp_path / "water.bundle", channels=256)
    assert (bundle / "weights.safetensors").stat().st_size > 2 * 2**20  # 50 would be 100 MB
    x, numbers = waters(2)
    system = system_of(numbers, openmm_force(bundle, numbers, device="cpu"))
    first = energy_forces(context_of(system, x))[0]
    before, clones = resident_MB(), []
    for _ in range(50):
        clones.append(copy.deepcopy(system))
        assert energy_forces(context_of(clones[-1], x))[0] == first
    assert resident_MB() - before < 20.0
