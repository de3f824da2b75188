"""Is the device the limit, and why? Copies, launches, waiting for it in each step, heat, and other users.

What GPU utilisation seems to say is `utilisation`'s question.
"""

import math

from loadtune.advice.case import (
    Case,
    StepTimes,
    describe,
    late_s,
    launch_s,
    resident_trials,
    spare_ratio,
    stall_ratio,
    step_times,
    taking_cpu_s,
)
from loadtune.advice.growth import ask_for_twice, instead_of_twice, is_exhausted
from loadtune.advice.pipeline import DeviceLine, fit_device
from loadtune.advice.rules.loader import are_fast_enough
from loadtune.advice.rules.speaking import plain, stalled
from loadtune.advice.thresholds import (
    COPY,
    FIXED_COST,
    HANDOVER_SPARE,
    LAUNCH,
    OTHER_SM,
    STALL,
    THROTTLED,
    Threshold,
)
from loadtune.advice.worth import samples_per_batch, worth_of_share, worth_of_step_time
from loadtune.records.measurement import TrialResult
from loadtune.records.report import Evidence, Finding
from loadtune.records.resources import GpuState, ResourceTrace
from loadtune.schedule.rules import BATCH_NORM_BATCH_SIZE

THERMAL_CAUSES = frozenset({"thermal"})
THERMAL_REASONS = frozenset({"hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake", "throttled"})
"""What holds a GPU's clocks down because of heat or a failing supply: by counter, and by what was active at a look. A
power cap is left out: a loaded data-centre GPU runs at it."""
HEAT_LOOKS_MIN = 5
"""Looks at what holds the clocks down, one a second over all trials, from which their share is told. Among fewer, one
look makes it a quarter or more."""
PCIE_LANE_BYTES_PER_S = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
"""One lane's bytes a second by generation: 2.5 and 5 GT/s with 8b/10b, 8 to 32 GT/s with 128b/130b, 64 GT/s in flits of
242 by 256 bytes; over 8 bits. What packets cost is not taken off, so no copy reaches it."""


def device_bound(case: Case) -> Finding | None:
    """The device hardly waits: the loader is fine, and more of it is waste."""
    stall = stall_ratio(case.chosen)
    if stall is None or stall > STALL.value:
        return None
    helps = "model or device" if is_exhausted(case) else "model, device or batch size"
    action = f"Leave the loader alone: only a faster {helps} helps."
    if copy_bound(case) is not None:  # the device is busy with receiving: pinned memory is the loader's to give
        action = f"Leave the workers alone: only quicker copies, or a faster {helps}, help."
    return Finding(
        rule="device-bound",
        severity="info",
        title="The device is the limit, not the loader",
        detail=f"With {describe(case.chosen)} the device waited for data {stall:.1%} of the time.",
        action=action,
        evidence=(STALL.evidence(stall),),
        confirm="The rate is the same with the batches already on the device.",
    )


def copy_bound(case: Case) -> Finding | None:
    """The device spends much of a step on receiving the batch."""
    trial, times = case.chosen, step_times(case.chosen)
    # A loader that could deliver far more is not what holds it up, though the device waits now and then.
    is_material = _paces(trial) or are_fast_enough(case)
    if times is None or case.device == "cpu" or not times.copy_s or not is_material:
        return None
    ratio = times.copy_s / times.whole_s
    if ratio < COPY.value:
        return None
    evidence, told = [COPY.evidence(ratio)], ""
    batch_bytes = None if trial.measurement is None else trial.measurement.batch_bytes
    if batch_bytes:
        evidence.append(plain("copied_bytes_per_s", batch_bytes / times.copy_s, "bytes/s"))
        told = f" at {batch_bytes / times.copy_s / 1e9:.1f} GB/s"
    link, is_narrow = _judge_link(case, trial)
    pin = trial.settings.pin_memory
    action = "" if pin else "Set pin_memory=True: pageable memory is copied twice, and the host waits for it. "
    if is_narrow:
        action += "Look at the slot, the riser or the BIOS setting of the PCIe link. "
    action += "Hand over uint8 and convert on the GPU; copy the next batch on a stream of its own."
    return Finding(
        rule="copy-bound",
        severity="warning" if is_narrow else "advice",
        title=f"Copying batches to the device takes {ratio:.0%} of the time",
        detail=f"{times.copy_s * 1e3:.3g} ms of {times.whole_s * 1e3:.3g} ms a step{told}, from "
        f"{'pinned' if pin else 'pageable'} memory.{link}",
        action=action,
        evidence=tuple(evidence),
        confirm="loadtune doctor --gpu measures what pinned and pageable copies reach.",
        worth_per_s=worth_of_step_time(trial, times.copy_s),
    )


def _judge_link(case: Case, trial: TrialResult) -> tuple[str, bool]:
    """Return a sentence on the PCIe link under load, and whether it is below what card and slot can do."""
    use, gpu = None if trial.trace is None else trial.trace.gpu_use, case.gpu
    if use is None or use.pcie_generation is None or use.pcie_width is None:
        return "", False
    lane = PCIE_LANE_BYTES_PER_S.get(use.pcie_generation)
    most = "" if lane is None else f", at most {lane * use.pcie_width / 1e9:.0f} GB/s"
    told = f" The PCIe link ran at generation {use.pcie_generation} x{use.pcie_width}{most}"
    generation, width = (None, None) if gpu is None else (gpu.pcie_max_generation, gpu.pcie_max_width)
    is_narrow = (generation or 0) > use.pcie_generation or (width or 0) > use.pcie_width
    return (f"{told}, though {generation} x{width} is possible." if is_narrow else f"{told}."), is_narrow


def launch_bound(case: Case) -> Finding | None:
    """Much of a step does not depend on the batch size: the batch is too small for this device."""
    trial, times = case.chosen, step_times(case.chosen)
    if times is None or case.device == "cpu" or not _paces(trial):
        return None
    line, own = device_line(case), trial.settings.batch_size
    share = None if line is None else fixed_cost_ratio(line, own)
    launch = launch_ratio(case, trial)
    is_fixed = share is not None and share >= FIXED_COST.value
    is_launching = share is None and launch is not None and launch >= LAUNCH.value
    if not is_fixed and not is_launching:
        return None
    evidence = [each for each in (_told(FIXED_COST, share), _told(LAUNCH, launch)) if each is not None]
    told = f"{share:.0%} of a step is a cost that does not grow with the batch." if share is not None else ""
    if launch is not None and launch >= LAUNCH.value:
        told += f" The host needs {launch:.0%} of the step's time to queue it."
    larger = ask_for_twice(case, trial.settings)
    # Of a fixed cost twice the batch saves half a sample; where that does not pay, all of it may be compiled away.
    saved_s = (1.0 if larger is None else 0.5) * (share if share is not None else launch or 0.0) * times.device_s
    return Finding(
        rule="launch-bound",
        severity="advice",
        title="The batch is too small for this device: fixed costs dominate the step",
        detail=f"With {describe(trial)}: {told.strip()}",
        action=instead_of_twice(case, trial.settings) if larger is None else f"{larger}.",
        evidence=tuple(evidence),
        confidence="high" if is_fixed else "medium",
        confirm="The step is quicker once compiled."
        if larger is None
        else f"The device alone, measured at batch_size={2 * own}, does more samples a second (--batch-size).",
        worth_per_s=worth_of_step_time(trial, saved_s),
    )


def _paces(trial: TrialResult) -> bool:
    """Say whether the device sets the pace, or takes turns with a loader in its own process."""
    return stalled(trial) is None or trial.settings.num_workers == 0


def _told(threshold: Threshold, value: float | None) -> Evidence | None:
    return None if value is None else threshold.evidence(value)


def device_line(case: Case) -> DeviceLine | None:
    """Return a + b B through the resident batches; None with under two batch sizes."""
    measured = {size: size / trial.rate_per_s for size, trial in resident_trials(case).items() if trial.rate_per_s}
    return fit_device(measured) if len(measured) > 1 else None


def fixed_cost_ratio(line: DeviceLine, batch_size: int) -> float:
    """Return a / (a + b B): what part of a step does not grow with the batch."""
    step_s = line.step_s(batch_size)
    return line.fixed_s / step_s if step_s > 0 else 0.0


def launch_ratio(case: Case, trial: TrialResult) -> float | None:
    """Return the host's CPU time to queue a step by the device's time for it; None where not known."""
    launch, times = launch_s(case, trial), step_times(trial)
    return None if launch is None or times is None or times.device_s <= 0 else launch / times.device_s


def synchronising_step(case: Case) -> Finding | None:
    """The step waits for the device itself, as `.item()` does: the host cannot queue ahead, and the device pauses.

    Waiting for batches is the loader's: fp16's GradScaler waits in every step, however slow the loader is. What taking
    a ready batch costs the host is not: with steps queued ahead the device would work meanwhile.
    """
    trial, times = case.chosen, step_times(case.chosen)
    measured = trial.measurement
    if measured is None or not measured.synchronisations or times is None:
        return None
    lost_s = times.gap_s + _unqueued_s(case, times)
    ratio = lost_s / times.whole_s
    is_felt = ratio > STALL.value
    count = measured.synchronisations
    return Finding(
        rule="synchronising-step",
        severity="advice" if is_felt else "info",
        title="The training step waits for the device",
        detail=f"{count} synchronising call{'s' if count > 1 else ''} in one step; the device was idle for {ratio:.1%} "
        "of the time between the steps, with its batch at hand or ready to be taken.",
        action="Keep the loss on the device and read it every hundred steps: no .item(), .cpu(), print or `if` on a "
        "tensor in each step.",
        evidence=(
            plain("synchronisations", float(count)),
            Evidence(name="idle_ratio", value=ratio, threshold=STALL.value, source=STALL.source),
        ),
        confirm='torch.cuda.set_sync_debug_mode("warn") names the line.',
        worth_per_s=worth_of_step_time(trial, lost_s),
    )


def unqueued_ratio(case: Case) -> float | None:
    """Return the share of the time that the device waited for a busy host; None where not decomposed."""
    times = step_times(case.chosen)
    return None if times is None or times.whole_s <= 0 else _unqueued_s(case, times) / times.whole_s


def _unqueued_s(case: Case, times: StepTimes) -> float:
    """Return the seconds a batch that the device waits for a busy host: late with its batch in hand, or taking it.

    Taking counts where batches lie ready: the workers could make far more. With a pinning thread its part is not known.
    """
    trial = case.chosen
    late, taking, spare = late_s(trial, times), taking_cpu_s(case.others), spare_ratio(trial)
    if taking is None or spare is None or spare < HANDOVER_SPARE.value or trial.settings.pin_memory:
        return late
    return late + min(times.stall_s - late, taking * samples_per_batch(trial))


def throttled_gpu(case: Case) -> Finding | None:
    """Heat, or a failing supply, held the GPU's clocks down: its rates are those of a slower one."""
    counted = [(share, trial) for trial in case.trials if (share := _counted_heat(trial)) is not None]
    looked = None if counted else _looked_heat(case)
    shares = counted if looked is None else [(looked, case.chosen)]
    worst, trial = max(shares, key=lambda each: each[0], default=(0.0, case.chosen))
    if worst <= THROTTLED.value:
        return None
    return Finding(
        rule="throttled-gpu",
        severity="warning",
        title=f"Heat or the power supply held the GPU's clocks down {worst:.0%} of the time",
        detail="Its rates are those of a slower GPU, and differ from trial to trial as it warms up.",
        action="Cool it better, or let it cool down, and measure again.",
        evidence=(THROTTLED.evidence(worst),),
        confirm="nvidia-smi -q -d PERFORMANCE, while training.",
        worth_per_s=_worth_of_clocks(case, trial),
    )


def _worth_of_clocks(case: Case, trial: TrialResult) -> float | None:
    """Return what the highest clock would win over the mean one while measuring; None where clocks are not known."""
    most = None if case.gpu is None else case.gpu.max_sm_clock_mhz
    states = [] if trial.trace is None else _states(trial.trace)
    seen = [each.sm_clock_mhz for each in states if each.sm_clock_mhz]
    if not most or not seen or stalled(case.chosen) is not None:
        return None
    return worth_of_share(case.chosen, 1.0 - sum(seen) / len(seen) / most)


def _states(trace: ResourceTrace) -> list[GpuState]:
    """Return the looks at clocks and what holds them down while measuring."""
    begin_s, end_s = trace.measuring_s or (-math.inf, math.inf)
    return [each for each in trace.gpu_states if begin_s <= each.at_s <= end_s]


def _counted_heat(trial: TrialResult) -> float | None:
    """Return the share of the measured time with the clocks held down by heat; None where no counter tells it."""
    use = None if trial.trace is None else trial.trace.gpu_use
    if use is None or use.throttled is None:
        return None
    return sum(each.ratio for each in use.throttled if each.cause in THERMAL_CAUSES)


def _looked_heat(case: Case) -> float | None:
    """Return the share of all looks while measuring that met clocks held down; None with too few to say."""
    trials = {id(each): each for each in (*case.trials, *case.others)}.values()
    states = [state for each in trials if each.trace is not None for state in _states(each.trace)]
    known = [state.throttle_reasons for state in states if state.throttle_reasons is not None]
    if len(known) < HEAT_LOOKS_MIN:
        return None
    return sum(not THERMAL_REASONS.isdisjoint(reasons) for reasons in known) / len(known)


def shared_gpu(case: Case) -> Finding | None:
    """Others computed on the GPU meanwhile: time and memory were not the trial's alone."""
    uses = [trial.trace.gpu_use for trial in case.trials if trial.trace is not None and trial.trace.gpu_use is not None]
    ratios = [use.other_sm_ratio for use in uses if use.other_sm_ratio is not None]
    counts = [use.other_processes for use in uses if use.other_processes is not None]
    ratio, processes = max(ratios, default=0.0), max(counts, default=0)
    if ratio <= OTHER_SM.value and not processes:
        return None
    is_busy = ratio > OTHER_SM.value
    told = f"They had a kernel running {ratio:.0%} of the time." if is_busy else "They hold a part of its memory."
    return Finding(
        rule="shared-gpu",
        severity="warning" if is_busy else "info",
        title="One other process is on the GPU" if processes == 1 else "Other processes are on the GPU",
        detail=f"{told} GPU utilisation and memory are not the trial's alone.",
        action="Measure again on a GPU of its own, if the training will have one." if is_busy else None,
        evidence=(
            *((Evidence(name="other_processes", value=processes, threshold=0),) if counts else ()),
            *((OTHER_SM.evidence(ratio),) if ratios else ()),
        ),
        confirm="nvidia-smi lists the processes.",
        worth_per_s=worth_of_share(case.chosen, ratio) if is_busy and stalled(case.chosen) is None else None,
    )


def small_batch_norm(case: Case) -> Finding | None:
    """BatchNorm sees too few samples a device."""
    batch_size = case.chosen.settings.batch_size
    if batch_size >= BATCH_NORM_BATCH_SIZE:
        return None
    evidence = Evidence(
        name="batch_size",
        value=batch_size,
        threshold=BATCH_NORM_BATCH_SIZE,
        source="DeepLabv3: mIOU falls below 8",
    )
    return Finding(
        rule="small-batch-norm",
        severity="info",
        title=f"{batch_size} samples a step are few for BatchNorm",
        detail=f"Below {BATCH_NORM_BATCH_SIZE} a device its statistics are poor; accumulation is no cure. Whether the "
        "model trains BatchNorm was not looked at.",
        action="If the model trains BatchNorm: GroupNorm, SyncBatchNorm, or frozen statistics.",
        evidence=(evidence,),
        confirm="Validation accuracy with SyncBatchNorm or GroupNorm beside it.",
    )
