"""What can `loadtune probe` be told?"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from loadtune.arguments import (
    Backbone,
    Baseline,
    Batches,
    Crop,
    Dataset,
    Device,
    Emit,
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
from loadtune.errors import UsageError
from loadtune.options import DEFAULT_BUDGET_S, ProbeOptions, parse_seconds, parse_share
from loadtune.schedule.batch_growth import read_noise_scale


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
    emit: Emit = None,
    force: Force = False,
    quiet: Quiet = False,
    redact: Redact = False,
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
    noise_scale: Annotated[
        float | None,
        typer.Option(help="Gradient noise scale in samples (loadtune.NoiseScale): judges larger batches."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Length of your training, for the hours saved.")] = 30,
    ranks_per_node: Annotated[int, typer.Option(help="Processes that share this machine; one is measured.")] = 1,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure although the answer is kept from before for the same question.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option(help="Go on with an interrupted probe of the same question: its report.json.")
    ] = None,
    search: Annotated[
        str, typer.Option(help="guided: what a model of loader and device points to; grid: every setting.")
    ] = "guided",
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
        noise_scale=None if noise_scale is None else read_noise_scale(noise_scale),
        epochs=epochs,
        ranks_per_node=ranks_per_node,
        max_bad_ratio=parse_share(max_bad),
        cold=cold,
        resume=resume,
        may_recall=not fresh and resume is None,
        search=search,  # type: ignore[arg-type]
        seed=seed,
        import_limit_s=import_limit,
        command=("loadtune", *sys.argv[1:]),
        began_s=process_start_s(),
    )
    try:
        code = run_probe(options, out, json_path, emit, force=force, quiet=quiet, redact=redact)
    except KeyboardInterrupt:
        print("loadtune: interrupted before anything was measured", file=sys.stderr)
        code = INTERRUPTED_EXIT_CODE
    raise typer.Exit(code)


def run_probe(
    options: ProbeOptions,
    out: Path | None,
    json_path: str | None,
    form: str | None,
    *,
    force: bool,
    quiet: bool,
    redact: bool = False,
) -> int:
    """Open the outputs, probe, and show the answer."""
    from loadtune.probing import probe as run
    from loadtune.render.emit import check_form

    check_form(form)
    if form is not None and json_path == "-":
        raise UsageError("--emit and --json - both want stdout", "give --json a file")
    report = run_and_show(options, out, json_path, "report", run, form, force=force, quiet=quiet, redact=redact)
    return INTERRUPTED_EXIT_CODE if report.status == "interrupted" else 0
