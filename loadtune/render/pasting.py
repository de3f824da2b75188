"""What of the answer is pasted into a training script? The loader, and the threads that it was measured beside."""

from collections.abc import Sequence
from typing import Any

from loadtune.records.report import Report
from loadtune.records.settings import Settings
from loadtune.render.answer import is_undecided
from loadtune.render.words import format_dataloader_line, format_threads_line, measured_threads


def compose_paste_label(report: Report) -> str:
    """Say what the `DataLoader(...)` line below is, and what of the user's own loader it leaves out."""
    hints = []
    if report.recommendation is not None and is_undecided(report.recommendation):
        hints.append("the candidate, to try it")
    if report.dataset.layout == "target":
        hints.append("with your own collate_fn, sampler and worker_init_fn, if you have them")
    return f"paste ({'; '.join(hints)})" if hints else "paste"


def compose_kwargs(fixed_axes: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments of a `DataLoader` of these data, valid as they stand, at 0 workers too.

    `batch_size` is left out beside a batch_sampler of the user's own, and None where their loader yields ready batches.
    """
    kwargs = settings.dataloader_kwargs()
    if any("batch_sampler" in axis for axis in fixed_axes):
        del kwargs["batch_size"]
    elif any("batch_size=None" in axis for axis in fixed_axes):
        kwargs["batch_size"] = None
    return kwargs


def compose_paste(report: Report) -> str | None:
    """Return the `DataLoader(...)` line, valid as it stands; None without a recommendation.

    A line before it sets the threads of the main process where they are part of what was measured.
    """
    if report.recommendation is None:
        return None
    line = format_dataloader_line(report.recommendation.settings)
    size = report.recommendation.settings.batch_size
    kwargs = compose_kwargs(report.dataset.fixed_axes, report.recommendation.settings)
    instead = f"batch_size={kwargs['batch_size']}" if "batch_size" in kwargs else "batch_sampler=batch_sampler"
    line = line.replace(f"batch_size={size}", instead)
    threads = measured_threads(report.recommendation.settings, report.trials)
    return line if threads is None else f"{format_threads_line(threads)}\n{line}"
