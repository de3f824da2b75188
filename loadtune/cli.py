"""Arguments in, exit code out: the only module that prints or exits.

Exit codes: 0 an answer was given (whatever the verdict); 1 to 9 as `errors` lists them; 130 the probe was interrupted
and the answer rests on what there was; 70 a bug of ours, with its traceback.
"""

import re
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from loadtune.errors import LoadtuneError, UsageError
from loadtune.options import DEFAULT_BUDGET_S, ProbeOptions

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


Dataset = Annotated[
    str,
    typer.Option(
        help="Folder of images and masks, or your own data: package.module:factory, path/to/train.py:factory.",
        show_default=False,
    ),
]
StepTime = Annotated[float | None, typer.Option(help="Replay a GPU that takes SECONDS a step at your batch size.")]
Device = Annotated[str, typer.Option(help="auto, cuda, cuda:N, cpu, or replay:FILE.")]
Crop = Annotated[int | None, typer.Option(help="Side of the training crop in pixels.  [513; on a CPU 129]")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the reports.  [a new one under reports/]")]


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
    batch_size: Annotated[
        str | None, typer.Option(help="Batch sizes, the smallest is yours: 16 or 16,32.  [16 and larger; on a CPU 2]")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="What you run today: num_workers=2,batch_size=16.  [torch's suggestion]")
    ] = None,
    out: Out = None,
    json_path: Annotated[
        str | None, typer.Option("--json", help="Also write the JSON report here; - prints it instead of text.")
    ] = None,
    force: Force = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    layout: Annotated[str | None, typer.Option(help="Layout of the data set, where it is ambiguous.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the data set.  [train, if there is one]")] = None,
    max_bad: Annotated[str, typer.Option(help="Broken samples that may be skipped.")] = "1%",
    crop: Crop = None,
    base_size: Annotated[int | None, typer.Option(help="Short side that the random scale is relative to.  [crop]")] = (
        None
    ),
    augment: Annotated[str, typer.Option(help="deeplab (scale, crop, flip) or none.")] = "deeplab",
    classes: Annotated[int | None, typer.Option(help="Classes of the network.  [seen in the masks]")] = None,
    backbone: Annotated[str, typer.Option(help="resnet18, resnet34, resnet50 or resnet101.")] = "resnet50",
    output_stride: Annotated[int, typer.Option(help="8 or 16.")] = 16,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.  [bf16 where the GPU has it]")] = None,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Use the channels-last memory format.")] = (
        False
    ),
    accumulate: Annotated[int, typer.Option(help="Batches to one optimizer step.")] = 1,
    model: Annotated[str | None, typer.Option(help="Your model: package.module:factory.  [DeepLabv3+]")] = None,
    train_step: Annotated[
        str | None, typer.Option(help="Your training step: package.module:function, called with each batch.")
    ] = None,
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
    from loadtune.options import check
    from loadtune.outputs import open_outputs
    from loadtune.probing import probe as run
    from loadtune.render.progress import make_progress
    from loadtune.render.saved import encode_report

    check(options)
    copy = Path(json_path) if json_path not in {None, "-"} and json_path is not None else None
    outputs = open_outputs(options.dataset, out, copy, force=force)
    try:
        report = run(options, outputs, make_progress(sys.stderr, quiet=quiet))
    except LoadtuneError:
        if not outputs.forget_if_empty():
            print(f"What was measured until then is in {outputs.json_path}", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        outputs.forget_if_empty()
        raise
    if json_path == "-":
        sys.stdout.write(encode_report(report).decode("utf-8"))
    else:
        _print_answer(report, str(outputs.json_path))
        print(f"\nWrote {outputs.json_path} and {outputs.html_path}")
    return INTERRUPTED_EXIT_CODE if report.status == "interrupted" else 0


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="A report.json.")],
    html: Annotated[Path | None, typer.Option(help="Write the page here as well.")] = None,
    force: Force = False,
) -> None:
    """Show a saved report again, and render its page."""
    from loadtune.errors import OutputError
    from loadtune.render.html import render_html
    from loadtune.render.saved import read_report, replace_file

    found = read_report(file)
    if html is not None:
        if html.exists() and not force:
            raise OutputError(f"{html} exists", "choose another name, or overwrite it with --force")
        replace_file(html, render_html(found).encode())
    _print_answer(found, str(file))
    if html is not None:
        print(f"\nWrote {html}")


@app.command()
def schema(
    profile: Annotated[bool, typer.Option("--profile", help="Of replay profiles instead of reports.")] = False,
) -> None:
    """Print the JSON Schema of report.json."""
    import json

    from loadtune.render.saved import profile_schema
    from loadtune.render.saved import schema as report_schema

    print(json.dumps(profile_schema() if profile else report_schema(), indent=2))


@app.command()
def profile(
    out: Annotated[Path, typer.Argument(help="File to write, for --device replay:FILE.")],
    device: Device = "auto",
    batch_size: Annotated[str, typer.Option(help="Batch sizes to record.")] = "8,16,32",
    crop: Crop = None,
    classes: Annotated[int, typer.Option(help="Classes of the network.")] = 21,
    model: Annotated[str | None, typer.Option(help="Your model: package.module:factory.  [DeepLabv3+]")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.  [bf16 where the GPU has it]")] = None,
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


def parse_seconds(text: str) -> float:
    """Parse `90`, `90s`, `5m` or `1h` as seconds."""
    match = re.fullmatch(r"\s*(\d{1,6}(?:\.\d+)?)\s*(s|m|min|h)?\s*", text)
    if match is None:
        raise UsageError(f"--budget {text!r} is no duration", "write it as 90s, 5m or 1h")
    return float(match[1]) * {"m": 60, "min": 60, "h": 3600}.get(match[2] or "s", 1)


def parse_share(text: str) -> float:
    """Parse `1%` or `0.01` as a share."""
    match = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*(%)?\s*", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"--max-bad {text!r} is no share", "write it as 1% or 0.01")
    return share


def process_start_s() -> float:
    """Return time.monotonic() at which this process began: the budget runs from Enter, not from here."""
    import psutil

    return time.monotonic() - max(0.0, time.time() - psutil.Process().create_time())


def _print_answer(report: object, saved_as: str) -> None:
    from rich.console import Console

    from loadtune.records.report import Report
    from loadtune.render.terminal import print_answer

    assert isinstance(report, Report)  # noqa: S101
    print_answer(report, Console(highlight=False), saved_as=saved_as)
