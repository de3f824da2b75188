"""What of the answer is pasted into a training script? The loader, and the threads that it was measured beside."""

from loadtune.records.report import Report
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


def compose_paste(report: Report) -> str | None:
    """Return the `DataLoader(...)` line, valid as it stands; None without a recommendation.

    A line before it sets the threads of the main process where they are part of what was measured.
    """
    if report.recommendation is None:
        return None
    line = format_dataloader_line(report.recommendation.settings)
    if any("batch_sampler" in axis for axis in report.dataset.fixed_axes):
        size = f"batch_size={report.recommendation.settings.batch_size}"
        line = line.replace(size, "batch_sampler=batch_sampler")
    threads = measured_threads(report.recommendation.settings, report.trials)
    return line if threads is None else f"{format_threads_line(threads)}\n{line}"
