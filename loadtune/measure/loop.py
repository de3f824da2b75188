"""How is a setting timed? Device first, then the loader, then windows until the rate is known or time is up.

The protocol's reasons: a loader that runs while the device still warms up fills its prefetch queue and looks faster
than it is; batches arrive in bursts of num_workers, so a window holds whole multiples of that; nothing is dropped,
since a stall is real.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from statistics import median

import msgspec

from loadtune.measure.accelerator import Step, Timeline, count_bytes, count_samples
from loadtune.measure.leg import Leg
from loadtune.measure.loader import Batches, Stamp, Taken
from loadtune.measure.summary import Evidence, summarise
from loadtune.measure.synchronising import count_synchronisations
from loadtune.records.measurement import Measurement, Window
from loadtune.records.messages import Event, Phase, StepsDone
from loadtune.records.settings import MeasureOptions, Settings

Tell = Callable[[Event], None]

WARM_STEPS = 10
"""Device steps before the loader starts; allocator and autotuner settle within them (fewer on slow devices)."""
WARM_STEPS_MIN = 2
"""Where a step takes longer than the whole warm-up may: one step to allocate, one to see that it is quick now."""
WARM_LIMIT_S = 3.0
"""Longest device warm-up once WARM_STEPS_MIN are done. More would eat the leg on a CPU, whose steps take seconds."""
SETTLED_RATIO = 0.05
"""Warm when the last five step times lie within this of each other."""
LOADER_BATCHES = 10
"""Batches of loader warm-up, or two from each worker, or all that may lie ready at once, whichever is most."""
LOADER_BATCHES_MIN = 2
"""Batches of loader warm-up at least, however slow: the first holds the start of the data set."""
SLOW_WARM_UP_S = 1.0
"""Time after which one batch from each worker will do; ten batches of half a second would eat the leg."""
EVEN_WAIT_RATIO = 0.05
"""Share of a window spent waiting for batches below which the device sets the pace, evenly."""
BEAT_S = 0.25
"""A sign of life at least this often while steps finish; silence beyond `silence_s` counts as a hang."""
WARM_RUN_AHEAD = 2
"""Steps queued ahead while warming up: with none, the idle between steps would hold the whole launch."""


@dataclass(slots=True)
class Run:
    """A leg under way: what was taken, what finished, and since when."""

    leg: Leg
    tell: Tell
    timeline: Timeline
    next_batch: Callable[[], Taken]
    is_resident: bool = False
    """The batch already lies on the device."""
    steps: list[Step] = field(default_factory=list)
    taken: list[tuple[Stamp | None, float]] = field(default_factory=list)
    epoch_starts: list[int] = field(default_factory=list)
    """Positions in `taken`, and so of steps, of the batches that began an epoch after another."""
    batch_bytes: int | None = None
    told_s: float = 0.0
    told_steps: int = 0

    def advance(self) -> None:
        """Take one batch, queue its step, and note the steps that finished meanwhile."""
        item = self.next_batch()
        if item.begins_epoch:
            self.epoch_starts.append(len(self.taken))
        self.taken.append((item.stamp, item.taken_s))
        if self.batch_bytes is None and not self.is_resident:
            self.batch_bytes = count_bytes(item.batch)
        samples = item.samples or count_samples(item.batch, self.leg.spec.settings.batch_size)
        self.timeline.queue(item.batch, samples, item.wait_s, is_resident=self.is_resident)
        self.collect(self.timeline.finished())

    def collect(self, finished: Iterator[Step]) -> None:
        """Note finished steps, and say so now and then."""
        self.steps.extend(finished)
        now_s = time.monotonic()
        if now_s - self.told_s >= BEAT_S and len(self.steps) > self.told_steps:
            self.tell_steps(now_s)

    def tell_steps(self, now_s: float) -> None:
        """Tell of the steps not yet told of."""
        fresh = self.steps[self.told_steps :]
        self.tell(StepsDone(finished_s=tuple(s.finished_s for s in fresh), samples=tuple(s.samples for s in fresh)))
        self.told_s, self.told_steps = now_s, len(self.steps)


def measure(leg: Leg, tell: Tell, process_s: float, wait_for_parent: Callable[[], None]) -> Measurement:
    """Run a leg to its result.

    Args:
        leg: What to run.
        tell: Takes events.
        process_s: Seconds from the request to this process running.
        wait_for_parent: Returns when the parent has read what it must read while the workers still live.
    """
    began_s = time.monotonic()
    idle_reference_s = warm_device_up(leg, tell)
    loader_began_s = time.monotonic()
    run = start(leg, tell)
    first_batch_s = run.taken[0][1] - loader_began_s
    tell(Phase(name="first_batch", at_s=time.monotonic()))
    warm_loader_up(run)
    tell(Phase(name="measuring", at_s=time.monotonic()))
    first_step = len(run.taken) - 1  # what was waited for while warming up ends with the last batch that it took
    cpu_began_s = time.process_time()
    windows, notes = _measure_windows(run, first_step, loader_began_s + leg.spec.measure.cap_s)
    cpu_s = time.process_time() - cpu_began_s
    run.tell_steps(time.monotonic())
    tell(Phase(name="measured", at_s=time.monotonic()))
    wait_for_parent()
    run.collect(run.timeline.drain())
    evidence = Evidence(
        synchronisations=leg.synchronisations,
        epoch_starts=tuple(run.epoch_starts),
        run_steps=run.steps,
        windows=windows,
        taken=[*run.taken, *_peek(run, run.steps[-1].finished_s)],
        idle_reference_s=idle_reference_s,
        first_step=first_step,
        batch_bytes=run.batch_bytes,
        main_cpu_s=cpu_s,
        process_s=process_s,
        device_warm_up_s=loader_began_s - began_s,
        first_batch_s=first_batch_s,
        loader_began_s=loader_began_s,
        notes=notes,
    )
    return summarise(leg, evidence)


def warm_device_up(leg: Leg, tell: Tell) -> float:
    """Train on a resident batch until steps take the same time; return the idle between them, in seconds.

    A replayed device needs none, and where nothing consumes there is nothing to warm.
    """
    profile = leg.spec.device.profile
    if profile is not None and profile.run_ahead_steps == 0:
        leg.synchronisations = 1
    if leg.spec.consume == "nothing" or leg.spec.device.kind == "replay":
        return 0.0
    batch = leg.accelerator.upload(leg.host_batch())
    samples = count_samples(batch, leg.spec.settings.batch_size)
    began_s, steps, timeline = time.monotonic(), list[Step](), Timeline(leg.accelerator)
    limit_s = min(WARM_LIMIT_S, leg.spec.measure.warm_up_s)
    while not _is_warm(steps, time.monotonic() - began_s, limit_s):
        timeline.queue(batch, samples, 0.0, is_resident=True)
        steps.extend(timeline.drain(WARM_RUN_AHEAD))
        tell(StepsDone(finished_s=(), samples=()))
    steps.extend(timeline.drain())
    if leg.spec.device.kind == "cuda":
        leg.synchronisations = count_synchronisations(lambda: leg.accelerator.step(batch))
    tell(Phase(name="device_warm", at_s=time.monotonic()))
    return median(step.idle_s for step in steps[1:])


def _is_warm(steps: list[Step], elapsed_s: float, limit_s: float) -> bool:
    if len(steps) < WARM_STEPS_MIN:
        return False
    if elapsed_s > limit_s:
        return True
    last = [step.copy_s + step.compute_s for step in steps[-5:]]
    return len(steps) >= WARM_STEPS and max(last) - min(last) <= SETTLED_RATIO * median(last)


def start(leg: Leg, tell: Tell) -> Run:
    """Start the feed that the spec names, and queue its first batch."""
    if leg.loader is None:
        is_resident = leg.spec.feed == "resident"
        batch = leg.host_batch()  # without a data set the cached feed is this batch, copied again each step
        batch = leg.accelerator.upload(batch) if is_resident else batch
        take = lambda: Taken(batch, None, 0.0, time.monotonic())  # noqa: E731 - one line that names what it makes
        run = Run(leg, tell, Timeline(leg.accelerator), take, is_resident=is_resident)
        run.advance()
        return run
    batches = Batches(leg.loader)
    run = Run(leg, tell, Timeline(leg.accelerator), batches.take)
    run.advance()
    if leg.spec.feed == "cached":
        held = [batches.take() for _ in range(max(LOADER_BATCHES, 2 * leg.spec.settings.num_workers))]
        turn = iter(_cycle(held))
        run.next_batch = lambda: replace(
            next(turn), stamp=None, wait_s=0.0, taken_s=time.monotonic(), begins_epoch=False
        )
    return run


def _cycle(batches: list[Taken]) -> Iterator[Taken]:
    while True:
        yield from batches


def warm_loader_up(run: Run) -> None:
    """Take batches until each worker has delivered and the queue is as full or empty as it will stay."""
    began_s, spec = time.monotonic(), run.leg.spec
    while not run.steps or not (
        run.leg.loader is None
        or is_loader_warm(spec.settings, len(run.taken), time.monotonic() - began_s, spec.measure)
    ):
        run.advance()


def is_loader_warm(settings: Settings, taken: int, elapsed_s: float, options: MeasureOptions) -> bool:
    """Say whether to start measuring.

    The device was warm before the loader began, so the queue starts empty and nothing has to drain: where batches are
    slow, one from each worker is enough.

    Args:
        settings: Of the loader.
        taken: Batches so far.
        elapsed_s: Since the first of them.
        options: Hold the longest warm-up.
    """
    if taken >= max(settings.batches_in_flight, 2 * settings.num_workers, LOADER_BATCHES):
        return True
    is_slow = taken >= max(settings.num_workers, LOADER_BATCHES_MIN) and elapsed_s > SLOW_WARM_UP_S
    return is_slow or elapsed_s > options.warm_up_s


def _measure_windows(run: Run, first_step: int, cap_at_s: float) -> tuple[list[Window], list[str]]:
    """Return the windows since `first_step` had finished, without a gap; the last takes the rest when time is up."""
    options = run.leg.spec.measure
    windows: list[Window] = []
    begin = last_begin = first_step
    total_s = 0.0
    until_s = time.monotonic() + options.measure_s
    while total_s < options.measure_s or len(windows) < options.windows_min:
        run.advance()
        end = _window_end(run, begin, options.window_min_s)
        if end is not None:
            windows.append(make_window(run.steps, begin, end))
            last_begin, begin, total_s = begin, end, total_s + windows[-1].duration_s
        now_s = time.monotonic()
        if now_s > cap_at_s or (len(windows) >= options.windows_min and now_s > until_s + options.measure_s):
            return _cut_short(run, windows, last_begin, begin)
    return windows, []


def _window_end(run: Run, begin: int, window_min_s: float) -> int | None:
    """Return the step that ends a window, or None as long as it is too short.

    Where the loop waits for the loader, batches come in bursts of num_workers and a window holds whole multiples of
    it; where a full queue feeds the device evenly, any number of batches does.
    """
    last = len(run.steps) - 1
    if last <= begin:
        return None
    whole_s = run.steps[last].finished_s - run.steps[begin].finished_s
    if whole_s < window_min_s:
        return None
    waited_s = sum(step.data_wait_s for step in run.steps[begin + 1 : last + 1])
    workers = 0 if run.leg.loader is None else run.leg.spec.settings.num_workers
    burst = max(1, workers) if waited_s > EVEN_WAIT_RATIO * whole_s else 1
    end = begin + (last - begin) // burst * burst
    is_long_enough = end > begin and run.steps[end].finished_s - run.steps[begin].finished_s >= window_min_s
    return end if is_long_enough else None


def _cut_short(run: Run, windows: list[Window], last_begin: int, begin: int) -> tuple[list[Window], list[str]]:
    """Take what there is: the rest joins the last window, since the stall that used the time up is real."""
    if windows:
        if len(run.steps) - 1 > begin:
            joined = make_window(run.steps, last_begin, len(run.steps) - 1)
            windows[-1] = msgspec.structs.replace(joined, flags=("time was up",))
        return windows, []
    while len(run.steps) < begin + 2:
        run.advance()
    window = make_window(run.steps, begin, len(run.steps) - 1)
    return [window], [f"Time was up after {window.batches} batches: less than one whole window, so the rate is rough."]


def make_window(steps: list[Step], begin: int, end: int) -> Window:
    """Return the window from the end of step `begin` to the end of step `end`."""
    inside = steps[begin + 1 : end + 1]
    return Window(
        started_s=steps[begin].finished_s,
        duration_s=steps[end].finished_s - steps[begin].finished_s,
        batches=len(inside),
        samples=sum(step.samples for step in inside),
        data_wait_s=sum(step.data_wait_s for step in inside),
        device_idle_s=sum(step.idle_s for step in inside),
        copy_s=sum(step.copy_s for step in inside),
        compute_s=sum(step.compute_s for step in inside),
    )


def _peek(run: Run, until_s: float) -> list[tuple[Stamp | None, float]]:
    """Take what lay ready at `until_s`, untrained, so that the queue's length then is known."""
    peeked: list[tuple[Stamp | None, float]] = []
    settings = run.leg.spec.settings
    if run.leg.loader is None or not settings.num_workers or run.leg.spec.feed != "loader":
        return peeked
    for _ in range(settings.batches_in_flight):
        item = run.next_batch()
        peeked.append((item.stamp, item.taken_s))
        if item.stamp is None or item.stamp.finished_s > until_s:
            break
    return peeked


def run_side(leg: Leg, tell: Tell) -> None:
    """Train for ever, telling of every step: one side of a duel. It is ended from outside."""
    warm_device_up(leg, tell)
    run = start(leg, tell)
    warm_loader_up(run)
    run.tell_steps(time.monotonic())
    tell(Phase(name="running", at_s=time.monotonic()))
    while True:
        run.advance()
