"""How does a command end? Outputs are opened first, what came of it is shown, an exit code says how it went."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from loadtune.errors import LoadtuneError
from loadtune.options import ProbeOptions

INTERRUPTED_EXIT_CODE, BUG_EXIT_CODE = 130, 70


def run_and_show(
    options: ProbeOptions,
    out: Path | None,
    json_path: str | None,
    kind: Literal["report", "verification"],
    run: Callable[..., Any],
    form: str | None = None,
    *,
    force: bool,
    quiet: bool,
    redact: bool = False,
) -> Any:
    """Open the outputs, run, show what came of it (as settings only, where a form is given), and return it."""
    from loadtune.options import check
    from loadtune.outputs import open_outputs
    from loadtune.render.progress import make_progress
    from loadtune.render.saved import encode_report

    check(options)
    copy = Path(json_path) if json_path not in {None, "-"} and json_path is not None else None
    outputs = open_outputs(options.dataset, out, copy, force=force, kind=kind, is_redacted=redact)
    try:
        found = run(options, outputs, make_progress(sys.stderr, quiet=quiet))
    except LoadtuneError:
        if not outputs.forget_if_empty():
            print(f"What was measured until then is in {outputs.json_path}", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        outputs.forget_if_empty()
        raise
    if json_path == "-":
        sys.stdout.write(encode_report(outputs.as_shown(found)).decode("utf-8"))
    elif form is not None:
        from loadtune.render.emit import emit

        sys.stdout.write(emit(found, form))
    else:
        show(found, str(outputs.json_path))
        print(f"\nWrote {outputs.json_path} and {outputs.html_path}")
    return found


def process_start_s() -> float:
    """Return time.monotonic() at which this process began: the budget runs from Enter, not from here."""
    import psutil

    return time.monotonic() - max(0.0, time.time() - psutil.Process().create_time())


def show(found: Any, saved_as: str) -> None:
    """Print a report or a verification."""
    from rich.console import Console

    from loadtune.records.report import Report
    from loadtune.render.terminal import print_answer
    from loadtune.render.verification import print_verification

    show_it = print_answer if isinstance(found, Report) else print_verification
    show_it(found, Console(highlight=False), saved_as=saved_as)
