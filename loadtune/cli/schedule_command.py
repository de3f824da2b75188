"""What can `loadtune schedule` be told?"""

import sys
from typing import Annotated

import typer

from loadtune.errors import UsageError


def schedule(
    kind: Annotated[
        str,
        typer.Argument(
            help="constant, step, multistep, exponential, inverse, poly, cosine, one-cycle (to --lr), or plateau.",
            show_default=False,
        ),
    ],
    *,
    lr: Annotated[float, typer.Option(help="Base learning rate at --batch-size.", show_default=False)],
    epochs: Annotated[float, typer.Option(help="Length of the training.", show_default=False)],
    samples: Annotated[int, typer.Option(help="Samples in an epoch.", show_default=False)],
    batch_size: Annotated[int, typer.Option(help="Samples behind one optimizer step, all ranks.", show_default=False)],
    to_batch_size: Annotated[int | None, typer.Option(help="Another batch size, to rescale to.")] = None,
    optimizer: Annotated[str, typer.Option(help="sgd, adam or adamw: its rule gives the factor.")] = "sgd",
    per: Annotated[
        str | None, typer.Option(help="How often the rate changes, and what k is per: iteration or epoch.  [iteration]")
    ] = None,
    power: Annotated[float | None, typer.Option(help="Of poly.  [0.9]")] = None,
    gamma: Annotated[
        float | None, typer.Option(help="Factor of step, multistep, plateau [0.1]; of exponential, exp(-k).")
    ] = None,
    every: Annotated[float | None, typer.Option(help="Epochs between the decays of step.")] = None,
    milestones: Annotated[str | None, typer.Option(help="Epochs of the decays of multistep: 30,60,80.")] = None,
    k: Annotated[float | None, typer.Option(help="Of exponential, exp(-k t), and inverse, 1 / (1 + k t).")] = None,
    floor: Annotated[float | None, typer.Option(help="Of cosine: lowest rate by the base rate.  [0]")] = None,
    patience: Annotated[int | None, typer.Option(help="Of plateau: evaluations that may bring nothing.  [10]")] = None,
    warm_up: Annotated[float | None, typer.Option(help="Epochs of linear warm-up, with either batch size.")] = None,
    warm_up_start: Annotated[float | None, typer.Option(help="Share of the rate it begins at.  [1/3]")] = None,
    add_warm_up: Annotated[
        float | None, typer.Option(help="Epochs of warm-up from the old rate, for the other batch size alone.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Draw a learning-rate schedule, and what another batch size makes of it. Nothing is trained."""
    from loadtune.schedule.kinds import ScheduleWords, make_schedule
    from loadtune.schedule.plan import compute_plan

    if optimizer not in {"sgd", "adam", "adamw"}:
        raise UsageError(f"--optimizer {optimizer} is unknown", "give sgd, adam or adamw")
    words = ScheduleWords(
        kind=kind,
        epochs=epochs,
        samples_per_epoch=samples,
        batch_size=batch_size,
        per=per,
        power=power,
        gamma=gamma,
        every=every,
        milestones=None if milestones is None else parse_milestones(milestones),
        k=k,
        floor=floor,
        patience=patience,
        warm_up=warm_up,
        warm_up_start=warm_up_start,
    )
    plan = compute_plan(
        make_schedule(words),
        rate=lr,
        epoch_count=epochs,
        samples_per_epoch=samples,
        batch_size=batch_size,
        new_batch_size=to_batch_size,
        optimizer=optimizer,  # type: ignore[arg-type]  # checked above
        added_warm_up=add_warm_up,
    )
    if as_json:
        import msgspec

        sys.stdout.write(msgspec.json.format(msgspec.json.encode(plan), indent=2).decode() + "\n")
        return
    from rich.console import Console

    from loadtune.render.schedule import print_plan

    print_plan(plan, Console(highlight=False))


def parse_milestones(text: str) -> tuple[float, ...]:
    """Read `30,60,80`.

    Raises:
        UsageError: It is no list of numbers.
    """
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--milestones {text!r} is no list of epochs", "give numbers, such as 30,60,80") from None
