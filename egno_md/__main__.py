"""`python -m egno_md` is `egno-md`."""

from __future__ import annotations

import sys

from egno_md.cli import main

if __name__ == "__main__":
    sys.exit(main())
