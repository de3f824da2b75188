"""What does a training script call? `recommend`, with its own data, model and step, and `probe`, with options."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from loadtune.options import ProbeOptions, check
from loadtune.outputs import Outputs, open_outputs
from loadtune.probing import probe as run_probe
from loadtune.records.measurement import TrialResult
from loadtune.records.report import Finding, Report
from loadtune.records.settings import Settings
from loadtune.render.progress import make_progress
from loadtune.render.saved import read_report
from loadtune.render.terminal import answer_lines

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_BUDGET_S = 60.0
"""Shorter than the command's 120 s: a script waits for it at every start."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What to use. Its text is the whole answer, as the command prints it."""

    report: Report

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
        recommendation = self.report.recommendation
        return None if recommendation is None else recommendation.learning_rate.rate

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Why, and what else to do."""
        return self.report.findings

    @property
    def _settings(self) -> Settings:
        recommendation = self.report.recommendation
        return self.report.request.baseline if recommendation is None else recommendation.settings

    def to_frame(self) -> "pd.DataFrame":
        """Return the trials as a table: one row each, in the order they ran; what was not measured is missing."""
        import pandas as pd

        return pd.DataFrame([_row(trial) for trial in self.report.trials])

    def __str__(self) -> str:
        return "\n".join(answer_lines(self.report))


def recommend(
    data: Any,
    *,
    model: Any = None,
    train_step: Any = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    device: str = "auto",
    step_time_s: float | None = None,
    optimizer: str = "sgd",
    lr: float | None = None,
    budget_s: float = DEFAULT_BUDGET_S,
    out: str | Path | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Advice:
    """Measure, and say which DataLoader settings to train with.

    Call it under `if __name__ == "__main__":`. Nothing of the script is trained or changed: trials run in processes
    of their own, on copies of what is handed over.

    Args:
        data: A Dataset or DataLoader, the folder of a data set, `module:factory`, or a saved report.json.
        model: A module that maps images to logits; None: DeepLabv3+.
        train_step: A function of one batch, already on the device, that does a whole step with a model of its own.
        batch_size: The batch size trained with today; None: the DataLoader's, else loadtune's default.
        num_workers: The workers used today; None: the DataLoader's, else torch's suggestion.
        device: As `loadtune probe --device`.
        step_time_s: Seconds a step of a GPU to replay, instead of a device.
        optimizer: "sgd", "adam" or "adamw".
        lr: The learning rate at `batch_size`.
        budget_s: Wall-clock seconds from call to answer.
        out: Folder for report.json and report.html; None: they are not kept.
        force: Whether reports that are there may be replaced.
        quiet: Whether to show no progress on stderr.

    Returns:
        The advice.

    Raises:
        LoadtuneError: See `loadtune.errors`: bad input, or nothing could be measured.

    Example:
        >>> from loadtune import recommend
        >>> advice = recommend(dataset, model=model, batch_size=16, lr=0.01)  # doctest: +SKIP
        >>> loader = DataLoader(dataset, shuffle=True, **advice.dataloader_kwargs)  # doctest: +SKIP
    """
    if isinstance(data, str | Path) and Path(data).suffix == ".json" and Path(data).is_file():
        return Advice(read_report(Path(data)))
    objects = {"dataset": data, "model": model, "train_step": train_step}
    if isinstance(data, str | Path):
        del objects["dataset"]
    options = ProbeOptions(
        dataset=str(data) if isinstance(data, str | Path) else type(data).__qualname__,
        device=device,
        step_time_s=step_time_s,
        batch_size=None if batch_size is None else str(batch_size),
        baseline=None if num_workers is None else f"num_workers={num_workers}",
        optimizer=optimizer,  # type: ignore[arg-type]
        learning_rate=lr,
        budget_s=budget_s,
        command=("loadtune.recommend()",),
        began_s=time.monotonic(),
        objects={name: value for name, value in objects.items() if value is not None},
    )
    return Advice(probe(options, out=out, force=force, quiet=quiet))


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
