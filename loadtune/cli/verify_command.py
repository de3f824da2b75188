"""What can `loadtune verify` be told?"""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from loadtune.arguments import (
    Backbone,
    Baseline,
    Batches,
    Dataset,
    Device,
    Force,
    JsonPath,
    Layout,
    Model,
    Out,
    Precision,
    Quiet,
    Redact,
    Split,
    StepTime,
    TrainStep,
)
from loadtune.cli.showing import INTERRUPTED_EXIT_CODE, process_start_s, run_and_show
from loadtune.options import DEFAULT_BUDGET_S, ProbeOptions, parse_seconds

FAILS_EXIT_CODE, UNKNOWN_EXIT_CODE = 10, 11


def verify(
    *,
    dataset: Dataset,
    quick: Annotated[bool, typer.Option("--quick", help="A fraction of the time; it can tell less.")] = False,
    budget: Annotated[
        str | None, typer.Option(help="Longest wall clock.  [5m, 1m with --quick; on a GPU 8m, 4m with --quick]")
    ] = None,
    device: Device = "auto",
    step_time: StepTime = None,
    batch_size: Batches = None,
    baseline: Baseline = None,
    out: Out = None,
    json_path: JsonPath = None,
    force: Force = False,
    quiet: Quiet = False,
    redact: Redact = False,
    share: Annotated[
        Path | None, typer.Option(help="Also write FILE: a redacted text that fits an issue.", metavar="FILE")
    ] = None,
    layout: Layout = None,
    split: Split = None,
    crop: Annotated[int | None, typer.Option(help="Side of the training crop in pixels.  [513; on a CPU 65]")] = None,
    backbone: Backbone = "resnet50",
    precision: Precision = None,
    model: Model = None,
    train_step: TrainStep = None,
) -> None:
    """Check, on this machine and with your data, whether the measuring can be trusted."""
    options = ProbeOptions(
        dataset=dataset,
        budget_s=DEFAULT_BUDGET_S if budget is None else parse_seconds(budget),
        device=device,
        step_time_s=step_time,
        batch_size=batch_size,
        baseline=baseline,
        layout=layout,
        split=split,
        crop_px=crop,
        backbone=backbone,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        model=model,
        train_step=train_step,
        command=("loadtune", *sys.argv[1:]),
        began_s=process_start_s(),
    )
    from loadtune.errors import UsageError
    from loadtune.options import check
    from loadtune.outputs import identify, open_shared
    from loadtune.records.verification import Outcome
    from loadtune.render.issue import render_issue
    from loadtune.render.saved import replace_file
    from loadtune.verifying.verify import verify as run

    check(options)
    if share is not None:
        if share.suffix not in {".md", ".txt"}:
            raise UsageError(f"--share {share} is a text for an issue", "name it with .md, such as issue.md")
        open_shared(share, force=force)
    work = partial(run, is_quick=quick, has_budget=budget is not None)
    try:
        found = run_and_show(options, out, json_path, "verification", work, force=force, quiet=quiet, redact=redact)
    except KeyboardInterrupt:
        print("loadtune: interrupted before anything was checked", file=sys.stderr)
        raise typer.Exit(INTERRUPTED_EXIT_CODE) from None
    if share is not None:
        replace_file(share, render_issue(found, identify()).encode())
        print(f"Wrote {share}", file=sys.stderr if json_path == "-" else sys.stdout)
    codes = {Outcome.HOLDS: 0, Outcome.FAILS: FAILS_EXIT_CODE, Outcome.UNKNOWN: UNKNOWN_EXIT_CODE}
    raise typer.Exit(INTERRUPTED_EXIT_CODE if found.status == "interrupted" else codes[found.outcome])
