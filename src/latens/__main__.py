"""`python -m latens` is the command `latens`."""

from __future__ import annotations

import sys

from latens.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
