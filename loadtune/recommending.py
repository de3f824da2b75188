"""What does a training script call? `recommend`, with its own data, model and step, and `probe`, with options."""

import inspect
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import msgspec

from loadtune.advised import Advice
from loadtune.errors import LoadtuneError, UsageError
from loadtune.holding import Held, held_by_training, read_own_device_bytes
from loadtune.options import BUDGET_MIN_S, ProbeOptions, Stepped, check, parse_seconds
from loadtune.outputs import Outputs, open_outputs
from loadtune.probing import probe as run_probe
from loadtune.ranks import decide_once, local_ranks, world_size
from loadtune.records.report import Report
from loadtune.records.settings import Optimizer, Precision, Settings
from loadtune.remembering import is_recalled
from loadtune.render.progress import make_progress
from loadtune.render.saved import read_report
from loadtune.schedule.batch_growth import read_noise_scale
from loadtune.schedule.optimizers import Held as HandedOptimizer
from loadtune.schedule.optimizers import read_optimizer

DEFAULT_BUDGET = "60s"
"""Shorter than the command's 120 s: a script waits for it at every start."""
VAL_SHARE = 1 / 3
"""Of the budget, for the validation's loader: it has one axis, and less time is spent there in most trainings."""
VAL_BATCH_SIZE = 16
"""Of a validation data set that comes without a loader, where no batch size was given."""


def recommend(
    data: Any,
    *,
    model: Any = None,
    loss: Any = None,
    optimizer: Any = "sgd",
    train_step: Any = None,
    val_loader: Any = None,
    val_step: Any = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    device: str = "auto",
    step_time_s: float | None = None,
    lr: float | None = None,
    precision: Precision | None = None,
    scheduler: Any = None,
    stepped: Stepped | None = None,
    noise_scale: Any = None,
    budget: str | float = DEFAULT_BUDGET,
    out: str | Path | None = None,
    force: bool = False,
    quiet: bool = False,
    fresh: bool = False,
    on_error: Literal["raise", "defaults"] = "raise",
) -> Advice:
    """Measure, and say which DataLoader settings to train with.

    Call it under `if __name__ == "__main__":`. Nothing of the script is trained or changed: trials run in processes
    of their own, on copies of what is handed over. Under torchrun every rank calls it: rank 0 measures, with its share
    of cores and memory, while the others wait, and all get the same answer. Another num_workers means other
    augmentations for the same seed, since each worker draws its own.

    Args:
        data: A Dataset or DataLoader, the folder of a data set, `module:factory`, or a saved report.json.
        model: A module that maps images to logits, or a function that makes one; None: DeepLabv3+.
        loss: A function of the model's output and the targets; None: cross entropy without label 255.
        optimizer: The optimizer, whose class and options the trials use, or "sgd", "adam" or "adamw".
        train_step: A function of one batch, already on the device, that does a whole step with a model of its own.
        val_loader: The loader, or data set, validated with. Its workers get a setting of their own (`Advice.val`),
            which is measured after the training, in `VAL_SHARE` of the budget, with what its workers hold set aside.
        val_step: As `train_step`, for validation; None: the model's forward pass and the loss, without gradients.
        batch_size: The batch size trained with today; None: the DataLoader's, else loadtune's default.
        num_workers: The workers used today; None: the DataLoader's, else torch's suggestion.
        device: As `loadtune probe --device`.
        step_time_s: Seconds a step of a GPU to replay, instead of a device.
        lr: The learning rate at `batch_size`; None: the optimizer's, if one was handed over.
        precision: "fp32", "bf16" or "fp16", by autocast; None: fp32 for a model or loss that is handed over, else bf16
            where the GPU has it. A `train_step` does as it does.
        scheduler: How the rate changes, for the code that comes with another batch: one of torch's schedulers, one that
            `anneal` made, or a schedule of `loadtune.schedule.curve`.
        stepped: Of one of torch's schedulers: whether it is stepped each "iteration" or each "epoch".
        noise_scale: The gradient noise scale: a `NoiseScale`, what its `estimate()` returned, or samples. Larger
            batches are then judged by their speed to the same loss. It is part of the question: with another one, an
            answer that is kept is measured anew.
        budget: Wall clock from call to answer: seconds, or "90s", "5m".
        out: Folder for report.json and report.html; None: they are not kept.
        force: Whether reports that are there may be replaced.
        quiet: Whether to show no progress on stderr.
        fresh: Whether to measure although the answer is kept from before, for the same machine, data, model, options
            and versions (`loadtune.remembering`).
        on_error: "defaults" gives what the script runs today instead of raising, with a RuntimeWarning: for jobs
            that must not stop.

    Returns:
        The advice.

    Raises:
        LoadtuneError: See `loadtune.errors`: bad input, or nothing could be measured.

    Example:
        >>> from loadtune import recommend
        >>> advice = recommend(dataset, model=model, batch_size=16, lr=0.01)  # doctest: +SKIP
        >>> loader = DataLoader(dataset, shuffle=True, **advice.dataloader_kwargs)  # doctest: +SKIP
        >>> if advice.main_threads is not None:  # doctest: +SKIP
        ...     torch.set_num_threads(advice.main_threads)
    """
    try:
        if isinstance(data, str | Path) and Path(data).suffix == ".json" and Path(data).is_file():
            return Advice(read_report(Path(data)))
        rule, parts, own_rate = describe_optimizer(optimizer)
        handed = {"model": _unwrap(model), "loss": loss, "optimizer": parts, "train_step": train_step}
        if not isinstance(data, str | Path):
            handed["dataset"] = data
        options = ProbeOptions(
            dataset=str(data) if isinstance(data, str | Path) else type(data).__qualname__,
            device=device,
            step_time_s=step_time_s,
            batch_size=None if batch_size is None else str(batch_size),
            baseline=None if num_workers is None else f"num_workers={num_workers}",
            optimizer=rule,
            learning_rate=own_rate if lr is None else lr,
            precision=precision,
            handed_optimizer=_hold(optimizer, lr),
            scheduler=scheduler,
            stepped=stepped,
            noise_scale=None if noise_scale is None else read_noise_scale(noise_scale),
            budget_s=parse_seconds(budget) if isinstance(budget, str) else float(budget),
            ranks_per_node=local_ranks(),
            ranks=world_size(),
            may_recall=not fresh,
            held=Held(device_bytes=read_own_device_bytes()),
            command=("loadtune.recommend()",),
            began_s=time.monotonic(),
            objects={key: value for key, value in handed.items() if value is not None},
        )
        val_options = None if val_loader is None else _val_options(options, val_loader, val_step)
        if val_options is not None:
            options = replace(options, budget_s=options.budget_s - val_options.budget_s)
        advice = Advice(_decide(options, out, force=force, quiet=quiet))
    except LoadtuneError as error:
        if on_error == "raise":
            raise
        return _give_todays(data, batch_size, num_workers, error)
    if val_options is None or val_loader is None or advice.report is None:
        return advice
    return replace(advice, val=_advise_validation(val_options, advice.report, val_loader, out, force, quiet))


def _decide(options: ProbeOptions, out: str | Path | None, *, force: bool, quiet: bool) -> Report:
    """Probe on rank 0, and let every rank know."""
    return decide_once(lambda: _with_cost(probe(options, out=out, force=force, quiet=quiet), options), options.budget_s)


def _val_options(options: ProbeOptions, val_loader: Any, val_step: Any) -> ProbeOptions:
    """Return what to ask of the validation's loader, but for what the training will be found to hold.

    Raises:
        UsageError: Nothing says what is done with a batch, or the budget does not suffice for both.
    """
    handed = options.objects
    if val_step is None and "train_step" in handed and "model" not in handed:
        raise UsageError(
            "val_loader was handed over, and nothing says what is done with its batches",
            "hand over model=, whose forward pass is measured, or val_step=, a function of one batch",
        )
    budget_s = max(BUDGET_MIN_S, VAL_SHARE * options.budget_s)
    if options.budget_s - budget_s < BUDGET_MIN_S:
        raise UsageError(
            f"budget={options.budget_s:g} s is too short for training and validation",
            f"give at least {2 * BUDGET_MIN_S:g} s",
        )
    parts: Mapping[str, Any] = {
        **{name: handed[name] for name in ("model", "loss") if name in handed},
        **({} if val_step is None else {"val_step": val_step}),
        "dataset": val_loader,
    }
    size = getattr(val_loader, "batch_size", None)
    own = options.batch_size or str(VAL_BATCH_SIZE)
    return replace(
        options,
        dataset=type(val_loader).__qualname__,
        batch_size=str(size) if size is not None else None if hasattr(val_loader, "batch_sampler") else own,
        baseline=None,
        purpose="evaluate",
        learning_rate=None,
        noise_scale=None,
        scheduler=None,
        stepped=None,
        budget_s=budget_s,
        command=("loadtune.recommend(val_loader=...)",),
        objects=parts,
    )


def _advise_validation(
    options: ProbeOptions, trained: Report, val_loader: Any, out: str | Path | None, force: bool, quiet: bool
) -> Advice:
    """Measure the validation's loader beside what the training holds; a failure costs the training's answer nothing."""
    held = replace(held_by_training(trained), device_bytes=options.held.device_bytes)
    options = replace(options, held=held, began_s=time.monotonic())
    try:
        return Advice(_decide(options, None if out is None else Path(out) / "validation", force=force, quiet=quiet))
    except LoadtuneError as error:
        return _give_todays(val_loader, None, None, error)


def _give_todays(data: Any, batch_size: int | None, num_workers: int | None, error: LoadtuneError) -> Advice:
    """Return what is run today, with a warning."""
    failure = f"{error.what}: {error.hint}"
    warnings.warn(f"loadtune measured nothing, and gives what is run today: {failure}", RuntimeWarning, stacklevel=3)
    today = todays_settings(data, batch_size, num_workers)
    return Advice(None, today, failure, fixed_axes=_fixed_axes(data, batch_size))


def _with_cost(report: Report, options: ProbeOptions) -> Report:
    """Say what the answer cost where several ranks waited for it. An answer that was kept cost nothing."""
    ranks = options.ranks
    if ranks == 1 or is_recalled(report):
        return report
    spent = (
        f"{ranks} ranks waited: {ranks} x {report.seconds_spent:.0f} s = {ranks * report.seconds_spent:.0f} GPU-seconds"
    )
    note = f"One rank was measured, alone, with its share of cores and memory. {spent}."
    return msgspec.structs.replace(report, search_notes=(note, *report.search_notes))


def describe_optimizer(optimizer: Any) -> tuple[Optimizer, tuple[Any, dict[str, Any]] | None, float | None]:
    """Return the rule for an optimizer's learning rate, its class and options, and its rate; of a name the rule alone.

    One that `rescale` has a rule for follows that; of others, those with betas follow Adam's rule and the rest SGD's.
    It is told by its attributes, so that nothing loads torch here.

    Raises:
        UsageError: It is neither a known name nor an optimizer.
    """
    if isinstance(optimizer, str):
        if optimizer not in get_args(Optimizer):
            raise UsageError(
                f"optimizer={optimizer!r} is unknown", f"hand over the optimizer, or one of {get_args(Optimizer)}"
            )
        return cast("Optimizer", optimizer), None, None
    groups, defaults = getattr(optimizer, "param_groups", None), getattr(optimizer, "defaults", None)
    if not groups or not isinstance(defaults, dict):
        raise UsageError(
            f"optimizer is a {type(optimizer).__qualname__}, no torch optimizer",
            'hand over the optimizer itself, or "sgd", "adam" or "adamw"',
        )
    held = _hold(optimizer)
    is_adam = held.kind.family == "adam" if isinstance(held, HandedOptimizer) else "betas" in defaults
    is_adamw = is_adam and "adamw" in type(optimizer).__name__.lower()
    rule: Optimizer = "adamw" if is_adamw else "adam" if is_adam else "sgd"
    accepted = inspect.signature(type(optimizer)).parameters
    options = {key: value for key, value in defaults.items() if key in accepted}
    # A schedule keeps here what was tuned; what the group holds now may be the start of a warm-up.
    rate = float(groups[0].get("initial_lr", groups[0]["lr"]))
    return rule, (type(optimizer), options), rate if rate > 0 else None


def _hold(optimizer: Any, lr: float | None = None) -> HandedOptimizer | str | None:
    """Return what an optimizer holds, with another rate of its first group if one is given.

    Its class alone where `rescale` has no rule for it; None of a name.
    """
    if isinstance(optimizer, str):
        return None
    try:
        held = read_optimizer(optimizer, {})
    except UsageError:
        return type(optimizer).__name__
    ratio = 1.0 if lr is None else lr / held.groups[0]["lr"]
    return replace(held, groups=tuple({**group, "lr": group["lr"] * ratio} for group in held.groups))


def todays_settings(data: Any, batch_size: int | None, num_workers: int | None) -> Settings:
    """Return what a script runs without advice: what it said, its DataLoader's settings, else torch's defaults."""
    workers = getattr(data, "num_workers", 0) if num_workers is None else num_workers
    size = getattr(data, "batch_size", None) if batch_size is None else batch_size
    has_workers = isinstance(workers, int) and workers > 0
    return Settings(
        num_workers=workers if has_workers else 0,
        batch_size=size if isinstance(size, int) and size >= 1 else 1,
        pin_memory=bool(getattr(data, "pin_memory", False)),
        prefetch_factor=getattr(data, "prefetch_factor", None) if has_workers else None,
        persistent_workers=has_workers and bool(getattr(data, "persistent_workers", False)),
        in_order=bool(getattr(data, "in_order", True)),
    )


def _fixed_axes(data: Any, batch_size: int | None) -> tuple[str, ...]:
    """Return what a DataLoader decides itself, in the words of a report."""
    if not hasattr(data, "batch_sampler") or data.batch_size is not None:
        return ()
    if data.batch_sampler is not None:
        return ("batch_size: by your batch_sampler",)
    return () if batch_size is not None else ("batch_size=None",)


def _unwrap(model: Any) -> Any:
    """Return the network inside of DistributedDataParallel or DataParallel: a trial is one process without a group."""
    is_wrapper = type(model).__name__ in {"DistributedDataParallel", "DataParallel"}
    return getattr(model, "module", model) if is_wrapper else model


def probe(options: ProbeOptions, *, out: str | Path | None = None, force: bool = False, quiet: bool = False) -> Report:
    """Run one probe and return its report.

    Args:
        options: Everything that the command's options can say.
        out: Folder for report.json and report.html; None: they are not kept.
        force: Whether reports that are there may be replaced.
        quiet: Whether to show no progress on stderr.

    Raises:
        LoadtuneError: See `loadtune.errors`.
    """
    check(options)
    sink: Outputs | _Nowhere = _Nowhere()
    if out is not None:
        sink = open_outputs(options.dataset, Path(out), None, force=force)
    return run_probe(options, sink, make_progress(sys.stderr, quiet=quiet))


class _Nowhere:
    """Keeps nothing."""

    def save(self, report: Report) -> None:
        """Ignore it."""

    def finish(self, report: Report) -> None:
        """Ignore it."""
