"""What a finished store gives back."""

import numpy as np
import pytest
import torch

from egno_md.trajectories.store_reader import TrajectoryReader


class TestReader:
    def test_states_segments_and_events(self, oscillator, good):
        reader = TrajectoryReader(good)
        states = list(reader.states(stride=4))
        assert [s.time_fs for s in states] == [0.0, 4, 8, 12, 16, 20, 24, 28, 32]
        blocks = list(reader.segments(10))
        assert [b.n_frames for b in blocks] == [10, 10, 10, 3]
        assert torch.equal(blocks[1].positions[:, 2], states[3].positions)
        assert torch.equal(reader.molecule.bonds, oscillator.start().molecule.bonds)
        assert torch.equal(reader.molecule.masses, oscillator.start().molecule.masses)
        assert len(reader.events) == 1
        assert reader.events[0].judge == "fake judge"
        assert reader.length_ps == pytest.approx(0.032)
        one = reader.array("positions", slice(None, None, 2), slice(1, 2))
        assert one.shape == (1, 17, 3, 3)

    def test_kinetic_energy_belongs_to_the_velocities(self, good):
        from egno_md.state import kinetic_energy

        reader = TrajectoryReader(good)
        segment = reader.segment(0, 33)
        expected = kinetic_energy(segment.molecule, segment.velocities).numpy()
        np.testing.assert_allclose(reader.array("kinetic_energies"), expected, rtol=1e-6)

    def test_what_is_not_there(self, good):
        reader = TrajectoryReader(good)
        with pytest.raises(ValueError, match=r"no array 'forces'; there are kinetic_energies"):
            reader.array("forces")
        with pytest.raises(ValueError, match="which has 0 to 33"):
            reader.segment(30, 34)
        with pytest.raises(ValueError, match="stride must be"):
            next(reader.states(0))
