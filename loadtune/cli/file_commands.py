"""Which commands work on files? `report` shows a saved one, `schema` says its form, `profile` records a device."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from loadtune.arguments import Crop, Device, Emit, Force, Model, Precision, Redact
from loadtune.cli.showing import show
from loadtune.errors import UsageError
from loadtune.options import ProbeOptions


def report(
    file: Annotated[Path, typer.Argument(help="A report.json, or a verification.json.")],
    html: Annotated[Path | None, typer.Option(help="Write the page here as well.")] = None,
    emit: Emit = None,
    redact: Redact = False,
    force: Force = False,
) -> None:
    """Show a saved report or verification again, and render its page."""
    from loadtune.errors import OutputError
    from loadtune.outputs import identify, render
    from loadtune.records.report import Report
    from loadtune.render.emit import check_form
    from loadtune.render.emit import emit as write_settings
    from loadtune.render.redaction import redact as leave_out
    from loadtune.render.saved import read_saved, replace_file

    check_form(emit)
    found = read_saved(file)
    if redact:
        found = leave_out(found, identify())
    if emit is not None and not isinstance(found, Report):
        raise UsageError(f"{file} is a verification, which recommends nothing", "give --emit a report.json")
    if html is not None:
        if html.exists() and not force:
            raise OutputError(f"{html} exists", "choose another name, or overwrite it with --force")
        replace_file(html, render(found).encode())
    if emit is not None and isinstance(found, Report):
        sys.stdout.write(write_settings(found, emit))
        return
    show(found, str(file))
    if html is not None:
        print(f"\nWrote {html}")


def schema(
    profile: Annotated[bool, typer.Option("--profile", help="Of replay profiles instead of reports.")] = False,
    verification: Annotated[bool, typer.Option("--verification", help="Of verifications instead of reports.")] = False,
    doctor: Annotated[bool, typer.Option("--doctor", help="Of `loadtune doctor --json` instead of reports.")] = False,
) -> None:
    """Print the JSON Schema of report.json."""
    import json

    from loadtune.render import saved

    kinds = {
        "--profile": (profile, saved.profile_schema),
        "--verification": (verification, saved.verification_schema),
        "--doctor": (doctor, saved.diagnosis_schema),
    }
    chosen = [name for name, (is_chosen, _) in kinds.items() if is_chosen]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} exclude each other", "ask for one after the other")
    print(json.dumps(kinds[chosen[0]][1]() if chosen else saved.schema(), indent=2))


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
