"""Times MACE in its own Python, one evaluation for each line it is given.

Run as `python mace_clock.py MODEL FILE...`; imports nothing of this package. A line on its input
is the number of a file; the answer is a line with the processor time of energy and forces, s.
"""

from __future__ import annotations

import sys
import time
from typing import Any


def main() -> None:
    """Answer until the input ends."""
    import ase.io
    from mace.calculators import MACECalculator

    model, *files = sys.argv[1:]
    calculator: Any = MACECalculator(model_paths=model, device="cpu", default_dtype="float32")
    systems = [ase.io.read(file) for file in files]
    print("ready", flush=True)
    for line in sys.stdin:
        atoms = systems[int(line)]
        began = time.process_time()
        calculator.calculate(atoms, properties=["energy", "forces"])
        print(f"seconds {time.process_time() - began!r}", flush=True)


if __name__ == "__main__":
    main()
