"""What did the GPU do while the settings of the verdict were measured? A sentence for each, of what was read alone."""

from collections.abc import Iterable, Iterator

from loadtune.records.measurement import TrialResult, TrialState
from loadtune.records.report import Report
from loadtune.records.resources import GpuInfo, GpuUse
from loadtune.render.answer import baseline_settings, is_of_setting
from loadtune.render.words import format_bytes, format_number, format_percent, format_settings, one_line

CAUSE_WORDS = {
    "power_cap": "the power cap",
    "thermal": "heat",
    "sync_boost": "another GPU's clocks",
    "board_limit": "the board's limits",
    "reliability": "the voltage's reliability",
}
"""What held the clocks down, in words."""


def compose_gpu_use(report: Report) -> tuple[str, ...]:
    """Return a sentence for the baseline and one for the recommended setting; none where no GPU was read."""
    wanted = [baseline_settings(report)]
    if report.recommendation is not None:
        wanted.append(report.recommendation.settings)
    last = {
        trial.settings: trial
        for trial in report.trials
        if trial.settings in wanted and is_of_setting(report, trial) and trial.state is TrialState.COMPLETE
    }
    lines = [
        _compose(last[settings], report.environment.gpus) for settings in dict.fromkeys(wanted) if settings in last
    ]
    return tuple(line for line in lines if line)


def _compose(trial: TrialResult, gpus: Iterable[GpuInfo]) -> str:
    """Return what is known of one trial's GPU; empty where nothing is."""
    use = None if trial.trace is None else trial.trace.gpu_use
    uuid = None if trial.measurement is None else trial.measurement.device_uuid
    known = next((gpu for gpu in gpus if gpu.uuid == uuid), None)
    parts = [] if use is None else [*_compose_power(use), *_compose_link(use, known), *_compose_units(use)]
    return f"{format_settings(trial.settings)}: {'; '.join(parts)}." if parts else ""


def _compose_power(use: GpuUse) -> Iterator[str]:
    if use.mean_power_w is not None:
        yield f"{format_number(use.mean_power_w)} W on average"
    if use.throttled is not None:
        causes = [
            f"{one_line(CAUSE_WORDS.get(each.cause, each.cause))} {format_percent(each.ratio)} of the time"
            for each in use.throttled
        ]
        yield f"clocks held down by {', by '.join(causes)}" if causes else "nothing held the clocks down"


def _compose_link(use: GpuUse, known: GpuInfo | None) -> Iterator[str]:
    if use.pcie_generation is not None and use.pcie_width is not None:
        most = None if known is None else (known.pcie_max_generation, known.pcie_max_width)
        could = ""
        if most is not None and None not in most and most != (use.pcie_generation, use.pcie_width):
            could = f" (it could do generation {most[0]} x{most[1]})"
        yield f"PCIe generation {use.pcie_generation} x{use.pcie_width} under load{could}"
    if use.pcie_rx_bytes_per_s is not None:
        yield f"{format_bytes(round(use.pcie_rx_bytes_per_s))}/s over it to the GPU"


def _compose_units(use: GpuUse) -> Iterator[str]:
    shares = {
        "multiprocessors active": use.sm_active_ratio,
        "their room for warps filled": use.sm_occupancy_ratio,
        "tensor cores active": use.tensor_active_ratio,
        "memory bandwidth used": use.dram_active_ratio,
    }
    yield from (f"{name} {format_percent(share)}" for name, share in shares.items() if share is not None)
    if use.other_processes:
        yield f"other processes on it: {use.other_processes}"
