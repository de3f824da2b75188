"""What does the GPU's driver tell, how often, and on which clock? Read from the driver, and from the trials so far."""

from statistics import median

from loadtune.monitor.gpu import DriverSampling
from loadtune.monitor.gpu_watch import GPU_INTERVAL_S
from loadtune.records.measurement import TrialResult
from loadtune.records.verification import Check, Figure, Outcome
from loadtune.verifying.bench import Bench

PERIOD_MAX_S = 1.0
"""Longest period of utilisation samples that NVIDIA documents (1/6 to 1 s by product); longer ones show no jitter."""
RING_MARGIN = 2.0
"""Times the seconds between two readings that the driver's ring must hold: with less, a late reading loses samples."""
CLOCK_HELD_RATIO = 0.97
"""Slowest SM clock by the fastest from which windows are of one and the same GPU: a rate is proportional to it, and the
tie rule tells 3 %."""


def check_sampling(bench: Bench) -> Check | None:
    """Say how often the driver samples utilisation, on which clock, and how far its ring reaches back."""
    if not bench.is_on_cuda:
        return None
    sampling, reason = _read_sampling(bench)
    target = (
        f"a known clock, a period of at most {PERIOD_MAX_S:g} s, a ring of at least {RING_MARGIN * GPU_INTERVAL_S:g} s"
    )
    claim = "The driver samples utilisation often enough, on a clock that is known."
    if sampling is None or sampling.period_s is None:
        told = reason or "fewer than two samples are in the driver's ring"
        return Check(
            id="driver-sampling", claim=claim, target=target, measured="not read", outcome=Outcome.UNKNOWN, reason=told
        )
    problems = []
    if sampling.period_s > PERIOD_MAX_S:
        problems.append("the samples are too far apart to show jitter")
    if sampling.span_s < RING_MARGIN * GPU_INTERVAL_S:
        problems.append("the ring is short: a late reading loses samples")
    if sampling.clock == "arrival":
        problems.append("the driver's clock is none that is known: samples are placed by when they arrived")
    return Check(
        id="driver-sampling",
        claim=claim,
        target=target,
        measured=f"a sample each {sampling.period_s:.3f} s, {sampling.samples} in the ring, which reach back "
        f"{sampling.span_s:.1f} s; stamped on the {sampling.clock} clock, the newest {sampling.age_s:.2f} s old",
        outcome=Outcome.FAILS if problems else Outcome.HOLDS,
        reason="; ".join(problems) or None,
        figures=(
            Figure(quantity="period of utilisation samples", value=sampling.period_s, unit="s"),
            Figure(quantity="samples in the ring", value=float(sampling.samples)),
            Figure(quantity="reach of the ring", value=sampling.span_s, unit="s"),
            Figure(quantity="age of the newest sample", value=sampling.age_s, unit="s"),
        ),
    )


def _read_sampling(bench: Bench) -> tuple[DriverSampling | None, str | None]:
    uuid = None if bench.trial.measurement is None else bench.trial.measurement.device_uuid
    if uuid is None:
        return None, "the trial named no GPU"
    reader = bench.nvml.device(uuid)
    if reader is None:
        return None, bench.nvml.reason or bench.nvml.refusal or "the driver gives no such GPU"
    try:
        sampling = reader.read_sampling()
        return sampling, None if sampling is not None else "the driver keeps no ring of samples"
    finally:
        reader.close()


def check_clocks(bench: Bench) -> Check | None:
    """Say whether the SM clock is known in every window of every trial so far, and whether it held."""
    if not bench.is_on_cuda:
        return None
    clocks = [_window_clocks(trial) for trial in bench.run.trials]
    windows = [clock for each in clocks for clock in each]
    known = [clock for clock in windows if clock is not None]
    unread = len(windows) - len(known)
    outcome, reason = Outcome.HOLDS, None
    if not known:
        outcome, reason = Outcome.UNKNOWN, "the driver gave no clock"
    elif unread:
        outcome, reason = Outcome.FAILS, f"no reading lies in or beside {unread} windows"
    elif min(known) < CLOCK_HELD_RATIO * max(known):
        outcome, reason = Outcome.UNKNOWN, "the clock moved, so rates of different windows are of different GPUs"
    span = (min(known), max(known)) if known else (None, None)
    return Check(
        id="gpu-clock",
        claim="The GPU's clock is known in every window, and held.",
        target=f"a reading for each window; the slowest at least {CLOCK_HELD_RATIO:g} of the fastest",
        measured=f"{len(known)} of {len(windows)} windows known"
        + (f", {span[0]:.0f} to {span[1]:.0f} MHz" if known else ""),
        outcome=outcome,
        reason=reason,
        figures=(
            Figure(
                quantity="SM clock by window",
                value=median(known) if known else None,
                unit="MHz",
                low=span[0],
                high=span[1],
                reason=None if known else "not read",
            ),
        ),
    )


def _window_clocks(trial: TrialResult) -> list[float | None]:
    """Return the lowest clock read in each window, or just before it."""
    measurement, trace = trial.measurement, trial.trace
    if measurement is None or trace is None or trace.measuring_s is None or not measurement.windows:
        return []
    if measurement.device_uuid is None:  # a replay of the device: no GPU ran
        return []
    zero_s = trace.measuring_s[0] - measurement.windows[0].started_s
    found: list[float | None] = []
    for window in measurement.windows:
        begin_s = zero_s + window.started_s
        read = [
            state.sm_clock_mhz
            for state in trace.gpu_states
            if state.sm_clock_mhz is not None
            and begin_s - GPU_INTERVAL_S <= state.at_s <= begin_s + window.duration_s + GPU_INTERVAL_S
        ]
        found.append(min(read) if read else None)
    return found
