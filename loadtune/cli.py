"""Arguments in, exit code out: the only module that prints or exits.

Exit codes: 0 an answer was given (whatever the verdict), or all that was verified holds; 1 to 9 as `errors` lists them;
10 something verified does not hold; 11 nothing fails, and something could not be told; 130 interrupted, and the answer
rests on what there was; 70 a bug of ours, with its traceback.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from loadtune.arguments import (
    Backbone,
    Baseline,
    Batches,
    Crop,
    Dataset,
    Device,
    Force,
    JsonPath,
    Layout,
    Model,
    Out,
    Precision,
    Quiet,
    Split,
    StepTime,
    TrainStep,
)
from loadtune.errors import LoadtuneError, UsageError
from loadtune.options import DEFAULT_BUDGET_S, ProbeOptions, parse_seconds, parse_share

FAILS_EXIT_CODE, UNKNOWN_EXIT_CODE = 10, 11
INTERRUPTED_EXIT_CODE, BUG_EXIT_CODE = 130, 70
HELP_WIDTH = 100
"""Widest help text: beyond it the eye loses the line."""

app = typer.Typer(
    name="loadtune",
    help="Measures which DataLoader setting, batch size and learning rate a PyTorch training should use.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": HELP_WIDTH},
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        app(args=arguments, prog_name="loadtune")
    except LoadtuneError as error:
        print(f"loadtune: error: {error.what}\n  hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:  # Typer's way to end, with the code of typer.Exit or of a wrong option
        return stop.code if isinstance(stop.code, int) else 0
    return 0


@app.command()
def probe(
    *,
    dataset: Dataset,
    device: Device = "auto",
    step_time: StepTime = None,
    budget: Annotated[str, typer.Option(help="Wall clock from Enter to answer, such as 90s or 5m.")] = (
        f"{DEFAULT_BUDGET_S:g}s"
    ),
    num_workers: Annotated[str | None, typer.Option(help="Worker counts: 2,4,8 or 0-16:4.  [auto]")] = None,
    batch_size: Batches = None,
    baseline: Baseline = None,
    out: Out = None,
    json_path: JsonPath = None,
    force: Force = False,
    quiet: Quiet = False,
    layout: Layout = None,
    split: Split = None,
    max_bad: Annotated[str, typer.Option(help="Broken samples that may be skipped.")] = "1%",
    crop: Crop = None,
    base_size: Annotated[int | None, typer.Option(help="Short side that the random scale is relative to.  [crop]")] = (
        None
    ),
    augment: Annotated[str, typer.Option(help="deeplab (scale, crop, flip) or none.")] = "deeplab",
    classes: Annotated[int | None, typer.Option(help="Classes of the network.  [seen in the masks]")] = None,
    backbone: Backbone = "resnet50",
    output_stride: Annotated[int, typer.Option(help="8 or 16.")] = 16,
    precision: Precision = None,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Use the channels-last memory format.")] = (
        False
    ),
    accumulate: Annotated[int, typer.Option(help="Batches to one optimizer step.")] = 1,
    model: Model = None,
    train_step: TrainStep = None,
    optimizer: Annotated[str, typer.Option(help="sgd, adam or adamw.")] = "sgd",
    lr: Annotated[float | None, typer.Option(help="Your learning rate, to be rescaled with the batch.")] = None,
    base_batch_size: Annotated[
        int | None, typer.Option(help="Samples a step for which --lr was tuned.  [the baseline's]")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Length of your training, for the hours saved.")] = 30,
    ranks_per_node: Annotated[int, typer.Option(help="Processes that share this machine; one is measured.")] = 1,
    cold: Annotated[bool, typer.Option("--cold", help="Drop the files from the page cache before each trial.")] = False,
    seed: Annotated[int, typer.Option(help="Of the sample order, the same in every trial.")] = 0,
    import_limit: Annotated[float, typer.Option(help="Seconds that importing your module may take.")] = 60.0,
) -> None:
    """Measure settings and recommend one."""
    options = ProbeOptions(
        dataset=dataset,
        layout=layout,
        split=split,
        device=device,
        step_time_s=step_time,
        num_workers=num_workers,
        batch_size=batch_size,
        baseline=baseline,
        budget_s=parse_seconds(budget),
        crop_px=crop,
        base_size_px=base_size,
        augment=augment,  # type: ignore[arg-type]  # words are checked with everything else
        class_count=classes,
        backbone=backbone,  # type: ignore[arg-type]
        output_stride=output_stride,
        precision=precision,  # type: ignore[arg-type]
        channels_last=channels_last,
        accumulate=accumulate,
        model=model,
        train_step=train_step,
        optimizer=optimizer,  # type: ignore[arg-type]
        learning_rate=lr,
        base_batch_size=base_batch_size,
        epochs=epochs,
        ranks_per_node=ranks_per_node,
        max_bad_ratio=parse_share(max_bad),
        cold=cold,
        seed=seed,
        import_limit_s=import_limit,
        command=("loadtune", *sys.argv[1:]),
        began_s=process_start_s(),
    )
    try:
        code = run_probe(options, out, json_path, force=force, quiet=quiet)
    except KeyboardInterrupt:
        print("loadtune: interrupted before anything was measured", file=sys.stderr)
        code = INTERRUPTED_EXIT_CODE
    raise typer.Exit(code)


def run_probe(options: ProbeOptions, out: Path | None, json_path: str | None, *, force: bool, quiet: bool) -> int:
    """Open the outputs, probe, and show the answer."""
    from loadtune.probing import probe as run

    report = run_and_show(options, out, json_path, "report", run, force=force, quiet=quiet)
    return INTERRUPTED_EXIT_CODE if report.status == "interrupted" else 0


@app.command()
def verify(
    *,
    dataset: Dataset,
    quick: Annotated[bool, typer.Option("--quick", help="One minute instead of five; it can tell less.")] = False,
    device: Device = "auto",
    step_time: StepTime = None,
    batch_size: Batches = None,
    baseline: Baseline = None,
    out: Out = None,
    json_path: JsonPath = None,
    force: Force = False,
    quiet: Quiet = False,
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
    from loadtune.records.verification import Outcome
    from loadtune.verifying.verify import verify as run

    work = partial(run, is_quick=quick)
    try:
        found = run_and_show(options, out, json_path, "verification", work, force=force, quiet=quiet)
    except KeyboardInterrupt:
        print("loadtune: interrupted before anything was checked", file=sys.stderr)
        raise typer.Exit(INTERRUPTED_EXIT_CODE) from None
    codes = {Outcome.HOLDS: 0, Outcome.FAILS: FAILS_EXIT_CODE, Outcome.UNKNOWN: UNKNOWN_EXIT_CODE}
    raise typer.Exit(INTERRUPTED_EXIT_CODE if found.status == "interrupted" else codes[found.outcome])


def run_and_show(
    options: ProbeOptions,
    out: Path | None,
    json_path: str | None,
    kind: Literal["report", "verification"],
    run: Callable[..., Any],
    *,
    force: bool,
    quiet: bool,
) -> Any:
    """Open the outputs, run, show what came of it, and return it."""
    from loadtune.options import check
    from loadtune.outputs import open_outputs
    from loadtune.render.progress import make_progress
    from loadtune.render.saved import encode_report

    check(options)
    copy = Path(json_path) if json_path not in {None, "-"} and json_path is not None else None
    outputs = open_outputs(options.dataset, out, copy, force=force, kind=kind)
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
        sys.stdout.write(encode_report(found).decode("utf-8"))
    else:
        show(found, str(outputs.json_path))
        print(f"\nWrote {outputs.json_path} and {outputs.html_path}")
    return found


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="A report.json, or a verification.json.")],
    html: Annotated[Path | None, typer.Option(help="Write the page here as well.")] = None,
    force: Force = False,
) -> None:
    """Show a saved report or verification again, and render its page."""
    from loadtune.errors import OutputError
    from loadtune.outputs import render
    from loadtune.render.saved import read_saved, replace_file

    found = read_saved(file)
    if html is not None:
        if html.exists() and not force:
            raise OutputError(f"{html} exists", "choose another name, or overwrite it with --force")
        replace_file(html, render(found).encode())
    show(found, str(file))
    if html is not None:
        print(f"\nWrote {html}")


@app.command()
def schema(
    profile: Annotated[bool, typer.Option("--profile", help="Of replay profiles instead of reports.")] = False,
    verification: Annotated[bool, typer.Option("--verification", help="Of verifications instead of reports.")] = False,
) -> None:
    """Print the JSON Schema of report.json."""
    import json

    from loadtune.render import saved

    if profile and verification:
        raise UsageError("--profile and --verification exclude each other", "ask for one after the other")
    made = saved.profile_schema() if profile else saved.verification_schema() if verification else saved.schema()
    print(json.dumps(made, indent=2))


@app.command()
def profile(
    out: Annotated[Path, typer.Argument(help="File to write, for --device replay:FILE.")],
    device: Device = "auto",
    batch_size: Annotated[str, typer.Option(help="Batch sizes to record.")] = "8,16,32",
    crop: Crop = None,
    classes: Annotated[int, typer.Option(help="Classes of the network.")] = 21,
    model: Model = None,
    precision: Precision = None,
    force: Force = False,
) -> None:
    """Record this machine's device, so that it can be replayed on another."""
    from loadtune.errors import OutputError
    from loadtune.recording import record_profile
    from loadtune.render.progress import make_progress

    if out.exists() and not force:
        raise OutputError(f"{out} exists", "choose another name, or overwrite it with --force")
    options = ProbeOptions(
        dataset="",
        device=device,
        batch_size=batch_size,
        crop_px=crop,
        class_count=classes,
        model=model,
        precision=precision,  # type: ignore[arg-type]
    )
    recorded = record_profile(options, out, make_progress(sys.stderr))
    for point in recorded.points:
        print(f"batch_size={point.batch_size:<4} {point.device_s:.4f} s a step, {point.host_cpu_s:.4f} s of host CPU")
    print(f"Wrote {out}: replay it with --device replay:{out}")


def version_wanted(value: bool) -> None:
    """Print the version and stop."""
    if value:
        from loadtune.version import __version__

        print(f"loadtune {__version__} (distribution loadtune-probe)")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=version_wanted, is_eager=True)] = False,
) -> None:
    """Measures which DataLoader setting, batch size and learning rate a PyTorch training should use."""


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
