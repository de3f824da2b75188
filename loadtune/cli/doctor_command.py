"""What can `loadtune doctor` be told?"""

import sys
from typing import Annotated

import typer

WARNING_EXIT_CODE, ERROR_EXIT_CODE = 12, 13


def doctor(
    dataset: Annotated[
        str | None, typer.Option(help="Folder of the data: storage and page cache are looked at too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (its schema: loadtune schema --doctor).")] = False,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Import torch, in a process of its own, and try CUDA, copies and PCIe.")
    ] = False,
) -> None:
    """Say what is wrong with this machine for a training, and what to do about it.

    Measures nothing and changes nothing. Takes one to three seconds; with --gpu about ten more.

    Exit codes: 0 nothing is wrong, 12 there are warnings, 13 there are errors. Notes and what is unknown are neither.
    """
    from loadtune.cli.showing import INTERRUPTED_EXIT_CODE
    from loadtune.doctor.examine import examine
    from loadtune.records.diagnosis import Severity

    try:
        found = examine(dataset, with_cuda=gpu)
    except KeyboardInterrupt:
        print("loadtune: interrupted before anything was found", file=sys.stderr)
        raise typer.Exit(INTERRUPTED_EXIT_CODE) from None
    if as_json:
        from loadtune.render.saved import encode_report

        sys.stdout.write(encode_report(found).decode("utf-8"))
    else:
        from rich.console import Console

        from loadtune.render.diagnosis import print_diagnosis

        print_diagnosis(found, Console(highlight=False))
    codes = {Severity.WARNING: WARNING_EXIT_CODE, Severity.ERROR: ERROR_EXIT_CODE}
    raise typer.Exit(codes.get(found.severity, 0))
