"""Stores of a noisy oscillator, written as a run would."""

from egno_md.trajectories.store import TrajectoryWriter
from egno_md.trajectories.store_format import StoreHeader
from egno_md.trajectories.store_reader import TrajectoryReader


def open_writer(oscillator, path, propagator, **flushing):
    if path.exists():
        writer = TrajectoryWriter.resume(path, **flushing)
        propagator.restore(writer.propagator_state)
        return writer
    start = oscillator.start()
    header = StoreHeader(start.molecule, start.n_replicas, propagator.frame_interval_fs)
    return TrajectoryWriter.create(path, header, start, propagator.restart_state(), **flushing)


def fill(oscillator, path, n_segments, flush_every_s=0.0):
    """Bring a store to so many segments of 8 frames, committing each."""
    propagator = oscillator.NoisyOscillator()
    writer = open_writer(oscillator, path, propagator, flush_every_s=flush_every_s)
    try:
        write_on(propagator, writer, n_segments)
        writer.flush()
    finally:
        writer._lock.close()  # what a kill does; close() would write more


def write_on(propagator, writer, n_segments):
    while writer.n_frames < 1 + 8 * n_segments:
        writer.append(propagator.advance(writer.state), propagator.restart_state())


def contents(path):
    reader = TrajectoryReader(path)
    return (
        {name: reader.array(name).tobytes() for name in sorted(reader._layouts)},
        reader.events,
        reader.n_frames,
    )
