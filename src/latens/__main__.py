"""The script `latens`, also as `python -m latens`."""

from __future__ import annotations

import sys

from latens.cli.stopping import ended_by_signals


def main() -> int:
    """Run the command and return its exit status. SIGTERM and a closed terminal stop it as Ctrl-C does."""
    try:
        with ended_by_signals():
            from latens.cli.main import main as command

            return command()
    except KeyboardInterrupt:  # while modules are imported, or a second signal
        print("latens: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
