"""What does a training script call? `recommend`, with its own data, model and step, and `probe`, with options."""

import inspect
import sys
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import msgspec

from loadtune.errors import LoadtuneError, UsageError
from loadtune.options import ProbeOptions, check, parse_seconds
from loadtune.outputs import Outputs, open_outputs
from loadtune.probing import probe as run_probe
from loadtune.ranks import decide_once, local_ranks, world_size
from loadtune.records.measurement import TrialResult
from loadtune.records.report import Finding, Report
from loadtune.records.settings import Optimizer, Settings
from loadtune.remembering import is_recalled
from loadtune.render.html import render_html
from loadtune.render.progress import make_progress
from loadtune.render.saved import read_report
from loadtune.render.terminal import answer_lines

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_BUDGET = "60s"
"""Shorter than the command's 120 s: a script waits for it at every start."""
FRAME_HEIGHT_PX = 640
"""Of the report in a notebook: the verdict card and the charts; the rest is scrolled."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What to use. Its text is the whole answer, as the command prints it; notebooks show it as a page."""

    report: Report | None
    """None where `on_error="defaults"` had to give what could not be measured."""
    fallback: Settings = Settings(num_workers=0, batch_size=1)
    """What is given without a report."""
    failure: str | None = None
    """Why there is no report."""

    @property
    def dataloader_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for `torch.utils.data.DataLoader`, valid as they stand, at 0 workers too.

        Without a recommendation they are the baseline's.
        """
        return self._settings.dataloader_kwargs()

    @property
    def batch_size(self) -> int:
        """Samples in a batch: the user's own, since another changes the training."""
        return self._settings.batch_size

    @property
    def lr(self) -> float | None:
        """The learning rate for that batch; None where none was given."""
        recommendation = None if self.report is None else self.report.recommendation
        return None if recommendation is None else recommendation.learning_rate.rate

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Why, and what else to do."""
        return () if self.report is None else self.report.findings

    @property
    def _settings(self) -> Settings:
        if self.report is None:
            return self.fallback
        recommendation = self.report.recommendation
        return self.report.request.baseline if recommendation is None else recommendation.settings

    def to_frame(self) -> "pd.DataFrame":
        """Return the trials as a table: one row each, in the order they ran; what was not measured is missing."""
        import pandas as pd

        return pd.DataFrame([_row(trial) for trial in self.report.trials] if self.report is not None else [])

    def __str__(self) -> str:
        if self.report is None:
            return f"not measured: {self.failure}\nuse {self._settings.dataloader_kwargs()}"
        return "\n".join(answer_lines(self.report))

    def _repr_html_(self) -> str:
        """Show the report in a notebook: the page in a frame of its own, whose style and script stay inside."""
        from html import escape

        if self.report is None:
            return f"<pre>{escape(str(self))}</pre>"
        page = escape(render_html(self.report), quote=True)
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts" title="loadtune report"'
            f' style="width:100%;height:{FRAME_HEIGHT_PX}px;border:0"></iframe>'
        )


def recommend(
    data: Any,
    *,
    model: Any = None,
    loss: Any = None,
    optimizer: Any = "sgd",
    train_step: Any = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    device: str = "auto",
    step_time_s: float | None = None,
    lr: float | None = None,
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
        batch_size: The batch size trained with today; None: the DataLoader's, else loadtune's default.
        num_workers: The workers used today; None: the DataLoader's, else torch's suggestion.
        device: As `loadtune probe --device`.
        step_time_s: Seconds a step of a GPU to replay, instead of a device.
        lr: The learning rate at `batch_size`; None: the optimizer's, if one was handed over.
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
    """
    try:
        if isinstance(data, str | Path) and Path(data).suffix == ".json" and Path(data).is_file():
            return Advice(read_report(Path(data)))
        rule, parts, own_rate = describe_optimizer(optimizer)
        handed = {"model": model, "loss": loss, "optimizer": parts, "train_step": train_step}
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
            budget_s=parse_seconds(budget) if isinstance(budget, str) else float(budget),
            ranks_per_node=local_ranks(),
            ranks=world_size(),
            may_recall=not fresh,
            command=("loadtune.recommend()",),
            began_s=time.monotonic(),
            objects={key: value for key, value in handed.items() if value is not None},
        )
        decide = partial(probe, options, out=out, force=force, quiet=quiet)
        return Advice(decide_once(lambda: _with_cost(decide(), options), options.budget_s))
    except LoadtuneError as error:
        if on_error == "raise":
            raise
        failure = f"{error.what}: {error.hint}"
        warnings.warn(
            f"loadtune measured nothing, and gives what is run today: {failure}", RuntimeWarning, stacklevel=2
        )
        return Advice(None, todays_settings(data, batch_size, num_workers), failure)


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

    Optimizers with betas follow Adam's rule, all others SGD's (`schedule.rescale`). It is told by its attributes, so
    that nothing loads torch here.

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
    name = type(optimizer).__name__
    has_betas = "betas" in defaults
    rule: Optimizer = "adamw" if has_betas and "adamw" in name.lower() else "adam" if has_betas else "sgd"
    accepted = inspect.signature(type(optimizer)).parameters
    options = {key: value for key, value in defaults.items() if key in accepted}
    # A schedule keeps here what was tuned; what the group holds now may be the start of a warm-up.
    rate = float(groups[0].get("initial_lr", groups[0]["lr"]))
    return rule, (type(optimizer), options), rate if rate > 0 else None


def todays_settings(data: Any, batch_size: int | None, num_workers: int | None) -> Settings:
    """Return what a script runs without advice: what it said, its DataLoader's settings, else torch's defaults."""
    workers = getattr(data, "num_workers", 0) if num_workers is None else num_workers
    size = getattr(data, "batch_size", None) if batch_size is None else batch_size
    return Settings(
        num_workers=workers if isinstance(workers, int) and workers >= 0 else 0,
        batch_size=size if isinstance(size, int) and size >= 1 else 1,
        pin_memory=bool(getattr(data, "pin_memory", False)),
    )


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


def _row(trial: TrialResult) -> dict[str, Any]:
    """Return one trial as columns: states, settings and figures, with the units in their names."""
    measurement, trace = trial.measurement, trial.trace
    return {
        "number": trial.number,
        "role": trial.role,
        "round": trial.round,
        "state": trial.state.value,
        **msgspec.structs.asdict(trial.settings),
        "rate_per_s": trial.rate_per_s,
        "spread_ratio": trial.spread_ratio,
        "stall_ratio": None if measurement is None else measurement.stall_ratio,
        "worker_cores": None if trace is None else trace.mean_worker_cores,
        "main_cores": None if trace is None else trace.mean_main_cores,
        "pss_bytes": None if trace is None else trace.pss_bytes,
        "utilisation_mean_ratio": None if trace is None else trace.utilisation_mean_ratio,
        "jitter_ratio": None if trace is None else trace.jitter_ratio,
        "seconds_spent": trial.seconds_spent,
        "failure": None if trial.failure is None else trial.failure.message,
    }


class _Nowhere:
    """Keeps nothing."""

    def save(self, report: Report) -> None:
        """Ignore it."""

    def finish(self, report: Report) -> None:
        """Ignore it."""
