import errno
import json
import os
import random
import shutil
import subprocess

import numpy as np
import pytest
import torch
import zarr

from egno_md.trajectories import store as store_module
from egno_md.trajectories.generate import generate
from egno_md.trajectories.store import TrajectoryWriter
from egno_md.trajectories.store_format import (
    Commit,
    StoreDamagedError,
    StoreHeader,
    array_layouts,
    checksum,
    replace_file,
)
from egno_md.trajectories.store_reader import TrajectoryReader
from tests.trajectories.store_files import contents, fill, open_writer, write_on


class Killed(Exception):
    """Stands for kill -9: nothing is tidied up after it."""


class TestInterruption:
    @pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.slow), "after"])
    def test_at_every_file_that_is_put_in_place(
        self, oscillator, good, tmp_path, when, monkeypatch
    ):
        """Killed before or after each rename of a commit, the next sitting ends the same."""
        monkeypatch.setattr(os, "fsync", lambda handle: None)  # for speed
        expected, short = contents(good), tmp_path / "short.zarr"
        fill(oscillator, short, 2)
        replace = os.replace
        for k in range(200):
            path = tmp_path / f"{when}-{k}.zarr"
            shutil.copytree(short, path)
            calls = 0

            def dying(*names, k=k, **more):
                nonlocal calls
                calls += 1
                if calls == k + 1 and when == "before":
                    raise Killed
                replace(*names, **more)
                if calls == k + 1:
                    raise Killed

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "replace", dying)
                try:
                    fill(oscillator, path, 3)
                except Killed:
                    pass
                else:
                    break
            TrajectoryReader(path).verify()
            assert TrajectoryReader(path).n_frames in (17, 25)
            fill(oscillator, path, 4)
            assert contents(path) == expected, k
            shutil.rmtree(path)
        # resize and chunk of six arrays, restart file, record: all were interrupted
        assert k >= 14

    def test_while_the_store_is_made_leaves_no_store(self, oscillator, tmp_path, monkeypatch):
        def dying(*args):
            raise Killed

        path = tmp_path / "run.zarr"
        with monkeypatch.context() as patch:
            patch.setattr(store_module.os, "rename", dying)
            with pytest.raises(Killed):
                fill(oscillator, path, 1)
        assert not path.exists()
        fill(oscillator, path, 1)
        assert TrajectoryReader(path).n_frames == 9

    def test_what_lies_beyond_the_commit_is_not_read_and_is_overwritten(
        self, oscillator, good, tmp_path
    ):
        path = tmp_path / "run.zarr"
        fill(oscillator, path, 2)
        group = zarr.open_group(path, mode="r+")
        for name in ("positions", "made_by"):
            array = group[name]
            assert isinstance(array, zarr.Array)
            array.resize((2, 40, *array.shape[2:]))
            array[:, 17:] = 7
        with (path / "journal" / "events.jsonl").open("a") as file:
            file.write('{"time_fs": 1')
        reader = TrajectoryReader(path)
        assert reader.n_frames == 17
        assert reader.array("positions").shape[1] == 17
        assert reader.events == ()
        fill(oscillator, path, 4)
        assert contents(path) == contents(good)


class TestDamage:
    @pytest.mark.parametrize("n_flips", [80, pytest.param(1000, marks=pytest.mark.slow)])
    def test_flipped_bit_anywhere_is_an_error_or_harmless(self, good, tmp_path, n_flips):
        """Single bits over all files: never another number."""
        expected, path = contents(good), tmp_path / "run.zarr"
        shutil.copytree(good, path)
        files = [p for p in sorted(path.rglob("*")) if p.is_file() and p.stat().st_size]
        chance = random.Random(0)
        caught = 0
        for k in range(n_flips):
            file = files[k % len(files)]
            data = file.read_bytes()
            flipped = bytearray(data)
            flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            file.write_bytes(flipped)
            try:
                found = contents(path)
            except ValueError as error:
                caught += "\n" not in str(error)
            else:
                assert found == expected, file
            file.write_bytes(data)
        assert caught > 0.4 * n_flips

    @pytest.mark.parametrize("name", ["positions", "velocities", "made_by", "times_fs"])
    def test_flipped_bit_in_a_chunk_names_the_array(self, good, tmp_path, name):
        path = tmp_path / "run.zarr"
        shutil.copytree(good, path)
        chunk = next(p for p in (path / name / "c").rglob("*") if p.is_file())
        data = bytearray(chunk.read_bytes())
        data[len(data) // 2] ^= 4
        chunk.write_bytes(data)
        with pytest.raises(StoreDamagedError, match=rf"array '{name}' of .* frames 0 to 32: "):
            TrajectoryReader(path).array(name, slice(5, 9))

    def test_truncated_chunk_at_every_length_is_an_error(self, good, tmp_path):
        path = tmp_path / "run.zarr"
        shutil.copytree(good, path)
        chunk = next(p for p in (path / "made_by" / "c").rglob("*") if p.is_file())
        data = chunk.read_bytes()
        for length in range(len(data)):
            chunk.write_bytes(data[:length])
            with pytest.raises(StoreDamagedError, match="array 'made_by'"):
                TrajectoryReader(path).verify()
        chunk.write_bytes(data)
        TrajectoryReader(path).verify()

    def test_missing_chunk_is_an_error_though_zarr_would_fill_it(self, good, tmp_path):
        path = tmp_path / "run.zarr"
        shutil.copytree(good, path)
        next(p for p in (path / "potential_energies" / "c").rglob("*") if p.is_file()).unlink()
        with pytest.raises(StoreDamagedError, match=r"'potential_energies'.*c/0/0 is missing"):
            TrajectoryReader(path)

    @pytest.mark.parametrize("flip", [10, -10])
    def test_damaged_restart_file_stops_resuming_but_not_reading(self, good, tmp_path, flip):
        path = tmp_path / "run.zarr"
        shutil.copytree(good, path)
        file = next((path / "journal").glob("restart-*"))
        data = bytearray(file.read_bytes())
        data[flip] ^= 1
        file.write_bytes(data)
        assert contents(path) == contents(good)
        with pytest.raises(StoreDamagedError, match=r"restart-4.* damaged.*frames can still"):
            TrajectoryWriter.resume(path)
        file.unlink()
        with pytest.raises(StoreDamagedError, match=r"restart-4.*missing"):
            TrajectoryWriter.resume(path)


class TestOpening:
    def test_newer_format(self, good, tmp_path):
        path = tmp_path / "run.zarr"
        shutil.copytree(good, path)
        meta = json.loads((path / "zarr.json").read_text())
        body = meta["attributes"]["egno_md"]
        body.pop("sha256")
        body["format_version"] = 2
        body["sha256"] = checksum(body)
        (path / "zarr.json").write_text(json.dumps(meta))
        with pytest.raises(ValueError, match=r"format 2; this egno-md reads up to 1: upgrade"):
            TrajectoryReader(path)

    def test_half_created(self, good, tmp_path):
        path = tmp_path / "run.zarr"
        shutil.copytree(good, path)
        (path / "journal" / "committed.json").unlink()
        with pytest.raises(StoreDamagedError, match=r"not a finished store.*delete the folder"):
            TrajectoryReader(path)

    def test_not_a_store(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no trajectory store at"):
            TrajectoryReader(tmp_path / "nothing.zarr")
        with pytest.raises(ValueError, match=r"not a trajectory store: it has no zarr\.json"):
            TrajectoryReader(tmp_path)
        zarr.create_group(tmp_path / "other.zarr")
        with pytest.raises(ValueError, match="not a trajectory store of egno-md"):
            TrajectoryReader(tmp_path / "other.zarr")

    def test_two_writers(self, oscillator, tmp_path):
        path = tmp_path / "run.zarr"
        fill(oscillator, path, 1)
        with (
            TrajectoryWriter.resume(path),
            pytest.raises(BlockingIOError, match="another process is writing"),
        ):
            TrajectoryWriter.resume(path)
        TrajectoryWriter.resume(path).close()


class TestDiskFull:
    @pytest.mark.parametrize("at", [1, 5, 12, 14])
    def test_error_is_one_line_and_committed_frames_stay(
        self, oscillator, good, tmp_path, monkeypatch, at
    ):
        path = tmp_path / "run.zarr"
        fill(oscillator, path, 2)
        replace, calls = os.replace, 0

        def full(*names, **more):
            nonlocal calls
            calls += 1
            if calls >= at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            replace(*names, **more)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(OSError, match="No space left") as error:
                generate(oscillator.NoisyOscillator(), None, length_ps=1.0, store=path, resume=True)
        message = str(error.value)
        assert "first 17 frames (to 0.016 ps) are safe" in message
        assert "--resume" in message
        assert "\n" not in message
        assert TrajectoryReader(path).n_frames == 17
        fill(oscillator, path, 4)
        assert contents(path) == contents(good)

    def test_on_a_disk_that_is_full(self, oscillator, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        try:
            mounted = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=120k", "none", str(disk)], capture_output=True
            )
        except FileNotFoundError:
            pytest.skip("mounting a small disk needs the mount command")
        if mounted.returncode:
            pytest.skip("mounting a small disk is not permitted here")
        try:
            path = disk / "run.zarr"
            propagator = oscillator.NoisyOscillator()
            writer = open_writer(oscillator, path, propagator, flush_every_s=0.0)
            with pytest.raises(OSError, match="No space left on device") as error:
                write_on(propagator, writer, 400)
            writer.close()
            reader = TrajectoryReader(path)
            reader.verify()
            assert f"first {reader.n_frames} frames" in str(error.value)
            assert reader.n_frames > 1
            subprocess.run(["mount", "-o", "remount,size=10M", str(disk)], check=True)
            fill(oscillator, path, 400, flush_every_s=1e9)
            whole = tmp_path / "whole.zarr"
            fill(oscillator, whole, 400, flush_every_s=1e9)
            assert contents(path) == contents(whole)
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            TrajectoryReader(path).verify()
            with pytest.raises(OSError, match="Read-only"):
                TrajectoryWriter.resume(path)
            with pytest.raises(OSError, match="Read-only"):
                fill(oscillator, disk / "other.zarr", 1)
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_replace_file_keeps_the_old_one(self, tmp_path, monkeypatch):
        file = tmp_path / "a"
        replace_file(file, b"old")

        def full(handle):
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="full"):
            replace_file(file, b"new")
        assert file.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [file]


class TestLayout:
    def test_chunks_are_about_a_megabyte_behind_a_checksum(self, oscillator, good):
        group = zarr.open_group(good, mode="r")
        for layout in array_layouts(TrajectoryReader(good).header):
            array = group[layout.name]
            assert isinstance(array, zarr.Array)
            codecs = [c["name"] for c in array.metadata.to_dict()["codecs"]]
            assert codecs == ["bytes", "zstd", "crc32c"]
            if layout.name == "made_by":
                assert array.fill_value == 0
            else:
                assert np.isnan(array.fill_value)

    @pytest.mark.parametrize(
        ("n_atoms", "n_replicas"), [(9, 1), (9, 1000), (1000, 1), (1000, 500), (200_000, 1)]
    )
    def test_chunk_sizes(self, n_atoms, n_replicas):
        from egno_md.state import Molecule

        molecule = Molecule(
            torch.ones(n_atoms, dtype=torch.int64), torch.ones(n_atoms, dtype=torch.float64)
        )
        for layout in array_layouts(StoreHeader(molecule, n_replicas, 0.5, has_cell=True)):
            size = np.dtype(layout.dtype).itemsize * np.prod(layout.chunks)
            assert size <= max(1.2e6, 12 * n_atoms)
            if layout.name == "positions":
                assert size > 0.4e6

    def test_chunk_files_are_those_of_the_frames(self, good):
        layout = array_layouts(StoreHeader(TrajectoryReader(good).molecule, 3, 0.5))[0]
        frames = layout.chunks[1]
        assert layout.chunk_files(0, 1) == ["positions/c/0/0/0/0"]
        assert layout.chunk_files(frames - 1, frames + 1) == [
            "positions/c/0/0/0/0",
            "positions/c/0/1/0/0",
        ]

    def test_a_store_of_several_chunks(self, oscillator, tmp_path, monkeypatch):
        """Small chunks in both directions give the same numbers as large ones."""
        from egno_md.trajectories import store_format

        monkeypatch.setattr(store_format, "_CHUNK_BYTES", 360)
        monkeypatch.setattr(store_format, "_SCALAR_CHUNK_FRAMES", 7)
        fill(oscillator, tmp_path / "small.zarr", 3)
        small = contents(tmp_path / "small.zarr")
        assert TrajectoryReader(tmp_path / "small.zarr")._layouts["positions"].chunks[1] == 5
        fill(oscillator, tmp_path / "small.zarr", 6)
        more = contents(tmp_path / "small.zarr")
        monkeypatch.undo()
        fill(oscillator, tmp_path / "large.zarr", 3)
        assert contents(tmp_path / "large.zarr") == small
        fill(oscillator, tmp_path / "large.zarr", 6)
        assert contents(tmp_path / "large.zarr") == more

    def test_commit_record_round_trip(self, good):
        commit = Commit.read(good)
        assert commit.n_frames == 33
        assert json.loads(commit.to_bytes())["n_frames"] == 33


class TestAppend:
    def test_a_segment_that_does_not_follow(self, oscillator, tmp_path):
        propagator = oscillator.NoisyOscillator()
        with open_writer(oscillator, tmp_path / "run.zarr", propagator) as writer:
            segment = propagator.advance(writer.state)
            writer.append(segment, propagator.restart_state())
            with pytest.raises(ValueError, match="not after the last stored frame at 8"):
                writer.append(segment, propagator.restart_state())

    def test_buffer_is_written_when_it_is_large(self, oscillator, tmp_path):
        propagator = oscillator.NoisyOscillator()
        path = tmp_path / "run.zarr"
        with open_writer(oscillator, path, propagator, flush_every_MB=0.005) as writer:
            counts = []
            for _ in range(4):
                writer.append(propagator.advance(writer.state), propagator.restart_state())
                counts.append(writer.n_committed)
        # 2 replicas x 8 frames x 3 atoms x 3 x 8 bytes x 2 arrays = 2304 bytes a segment
        assert counts == [1, 1, 25, 25]
        assert TrajectoryReader(path).n_frames == 33
