"""The entry point: `loadtune` and `python -m loadtune`."""

import sys
import traceback

from loadtune.cli import main as run
from loadtune.cli.showing import BUG_EXIT_CODE


def main() -> None:
    """Run and exit; only a bug of ours shows a traceback."""
    try:
        code = run()
    except Exception:  # noqa: BLE001 - the last line of defence: it is told, and not swallowed
        traceback.print_exc()
        sys.exit(BUG_EXIT_CODE)
    sys.exit(code)


if __name__ == "__main__":
    main()
