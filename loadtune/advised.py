"""What does a training script get back? Settings to pass on, the reasons, the table, and a text that says all of it."""

from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

import msgspec

from loadtune.records.measurement import TrialResult
from loadtune.records.report import Finding, Report
from loadtune.records.settings import Settings
from loadtune.render.html import render_html
from loadtune.render.pasting import compose_kwargs
from loadtune.render.terminal import answer_lines
from loadtune.render.words import measured_threads

if TYPE_CHECKING:
    import pandas as pd

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
    fixed_axes: tuple[str, ...] = ()
    """What the loader decides itself, where there is no report."""
    val: "Advice | None" = None
    """The same for the validation's loader, where one was handed over."""

    @property
    def dataloader_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for `torch.utils.data.DataLoader`, valid as they stand, at 0 workers too.

        Where nothing is shown to be faster they are the candidate's, the best that was measured; without a
        recommendation they are the baseline's. `batch_size` is left out beside a batch_sampler of your own,
        and None where your loader yields ready batches.
        """
        return compose_kwargs(
            self.fixed_axes if self.report is None else self.report.dataset.fixed_axes, self._settings
        )

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
    def main_threads(self) -> int | None:
        """Threads of the main process that the rate was measured with; None: leave them as they are.

        Where it is a number, call `torch.set_num_threads` with it before the training: a DataLoader cannot. On device
        cpu it always is, once something was recommended.
        """
        trials = () if self.report is None or self.report.recommendation is None else self.report.trials
        return measured_threads(self._settings, trials)

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
        lines = [f"not measured: {self.failure}", f"use {self.dataloader_kwargs}"]
        if self.report is not None:
            lines = answer_lines(self.report)
        return "\n".join(lines if self.val is None else [*lines, "", "validation", str(self.val)])

    def _repr_html_(self) -> str:
        """Show the report in a notebook: the page in a frame of its own, whose style and script stay inside."""
        if self.report is None:
            shown = f"<pre>{escape(str(replace(self, val=None)))}</pre>"
        else:
            page = escape(render_html(self.report), quote=True)
            shown = (
                f'<iframe srcdoc="{page}" sandbox="allow-scripts" title="loadtune report"'
                f' style="width:100%;height:{FRAME_HEIGHT_PX}px;border:0"></iframe>'
            )
        return shown if self.val is None else f"{shown}<p>validation</p>{self.val._repr_html_()}"


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
