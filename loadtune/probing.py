"""One probe, from request to report: ask the search, run the trial, tell the search, hold the duel, advise, write.

The order of events stands here; what each step does stands in its own room.
"""

import os
import shlex
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from loadtune import options as asked
from loadtune.advice.budget import divide_budget
from loadtune.advice.feasibility import Obstacle, find_obstacle
from loadtune.advice.search import Leg, Search
from loadtune.advice.selection import choose
from loadtune.concluding import conclude, refuse_too_many
from loadtune.confirming import confirm, refine
from loadtune.engine.here import Here
from loadtune.engine.launcher import Launcher
from loadtune.errors import LoadtuneError, NothingMeasuredError, UsageError
from loadtune.holding import Held
from loadtune.monitor.environment import refuse_other_distribution, refuse_other_platforms
from loadtune.monitor.nvml import Nvml
from loadtune.monitor.readings import find_readings
from loadtune.options import ProbeOptions
from loadtune.payload import Homebound, find_homebound
from loadtune.planning import make_search
from loadtune.preparing import Probe, Sink, Status, prepare
from loadtune.ranks import MEASURED_RANKS_MAX, local_ranks, world_size
from loadtune.records.measurement import Cause, TrialResult, TrialState
from loadtune.records.report import Report
from loadtune.records.resources import Reading
from loadtune.records.settings import Settings, TrialSpec
from loadtune.remembering import compute_facts, compute_key, recall, remember
from loadtune.render.progress import Progress
from loadtune.resuming import open_earlier


def probe(options: ProbeOptions, sink: Sink, progress: Progress) -> Report:
    """Run a probe and return its report; what was measured is saved after every trial.

    Args:
        options: What was asked; `options.check` has accepted it or will refuse it here.
        sink: Keeps the report.
        progress: Tells how far it is.

    Raises:
        LoadtuneError: See `errors`; a report with what was measured is saved before, once there is anything.
    """
    refuse_other_platforms()
    refuse_other_distribution()
    refuse_several_ranks(options.ranks)
    asked.check(options)
    began_s = time.monotonic() if options.began_s is None else options.began_s
    homebound = find_homebound(options.objects)
    cores = _cores_of_one_rank(options.ranks_per_node)
    with ExitStack() as stack:
        stack.callback(progress.stop)
        launcher: Launcher | Here = Launcher(cores) if homebound is None else Here(options.objects, cores)
        stack.enter_context(launcher)
        nvml = Nvml.open()
        stack.callback(nvml.close)
        progress.start("starting: importing torch, reading the machine and the data set")
        run = prepare(options, launcher, nvml, sink, progress, began_s, stack)
        if homebound is not None:
            run.warnings = (_describe_homebound(homebound), *run.warnings)
        also = (
            options.base_batch_size,
            options.max_bad_ratio,
            run.plan.needs.sample_bytes,
            options.cold,
            options.search,
            _gib(options.held),
            (options.noise_scale, options.handed_optimizer, run.plan.terms.schedule),
        )
        run.facts = compute_facts(run.request, run.environment, run.dataset, options.objects, also)
        if options.resume is not None:
            run.earlier = open_earlier(Path(options.resume), run.facts)
        key = None if run.facts is None else compute_key(run.facts)
        kept = recall(key) if options.may_recall and key is not None else None
        if kept is not None:
            progress.stop()
            sink.finish(kept)
            return kept
        _refuse_to_keep_waiting(options.ranks)
        report = _run(run, nvml)
        if key is not None:
            remember(key, report)
        return report


def _describe_homebound(homebound: Homebound) -> str:
    """Say what could not travel, and what measuring without it costs."""
    told = f"the {homebound.name} cannot be handed to a process of its own ({homebound.reason})"
    return (
        f"{told}: trials ran in this one, so a crash or a hang would have ended the script, what a trial leaves behind "
        "is there for the next, and fresh runs alternated instead of live ones\n"
        "open files, locks and connections where they are first used, in the worker, and trials are apart again"
    )


def _gib(held: Held) -> tuple[int, ...]:
    """Round what is held so that an answer is kept for the next call, which holds a little more or less."""
    return tuple(round(each / 2**30) for each in (held.memory_bytes, held.shm_bytes, held.device_bytes))


def _cores_of_one_rank(ranks: int) -> int | None:
    """Return the cores to hold the trials to where several ranks share the machine."""
    return None if ranks == 1 else max(1, len(os.sched_getaffinity(0)) // ranks)


def refuse_several_ranks(ranks: int) -> None:
    """Refuse to probe under a launcher of several ranks, which would all measure at once.

    Args:
        ranks: How many are known to wait for this one.

    Raises:
        UsageError: WORLD_SIZE is another number.
    """
    world = world_size()
    if world not in {1, ranks}:
        raise UsageError(
            f"WORLD_SIZE={world}: every rank would measure at once and disturb the others",
            "run it once, outside torchrun, with --ranks-per-node N",
        )


def _refuse_to_keep_waiting(ranks: int) -> None:
    """Refuse to measure while many ranks wait.

    Raises:
        UsageError: There are more than `MEASURED_RANKS_MAX`.
    """
    if ranks > MEASURED_RANKS_MAX:
        raise UsageError(
            f"{ranks} ranks would wait while one measures, and no answer is kept for this machine and training",
            f"fill the cache once, in one process: LOCAL_WORLD_SIZE={local_ranks()} {shlex.join(sys.orig_argv)}",
        )


def _run(run: Probe, nvml: Nvml) -> Report:
    """Screen, duel, conclude; an interrupt or a dead engine ends the measuring, not the report."""
    status: Status = "complete"
    stopped: LoadtuneError | None = None
    no_duel_reason = "the probe ended before a duel could be held"
    try:
        no_duel_reason = _measure(run)
    except KeyboardInterrupt:
        status = "interrupted"
    except LoadtuneError as error:
        status, stopped = "failed", error
    choice = run.choice
    try:
        choice = choice or choose(run.trials, run.plan.baseline)
    except NothingMeasuredError as error:
        status = "interrupted" if status == "interrupted" else "failed"
        stopped = stopped or error
    if run.earlier.used:
        run.notes = (f"{run.earlier.used} trials are from the probe that this one went on with.", *run.notes)
    run.readings = _look_at_readings(run, nvml)
    gpus = run.environment.gpus
    report = run.report(status, conclude(run.plan, run.trials, run.duels, choice, no_duel_reason, gpus))
    run.progress.stop()
    run.sink.finish(report)
    if stopped is not None and status != "interrupted":
        raise stopped
    return report


def _look_at_readings(run: Probe, nvml: Nvml) -> tuple[Reading, ...]:
    """Return which readings there were, by the last trial that was watched to its end."""
    watched = [t for t in run.trials if t.measurement is not None and t.trace is not None and t.consume == "device"]
    last = watched[-1] if watched else None
    uuid = None if last is None or last.measurement is None else last.measurement.device_uuid
    return find_readings(run.plan.device.kind, run.plan.limits, nvml, uuid, None if last is None else last.trace)


def _measure(run: Probe) -> str:
    """Screen until there is a choice to confirm, or nothing left to ask; return why there is no duel, or nothing.

    Where the baseline is the choice, the seconds kept for its duel go back to the screening: a share of them as long as
    that suffices for a trial, then all.
    """
    search = make_search(run.plan, lambda settings: _obstacle(run, settings), run.options.search, run.options.seed)
    run.sink.save(run.report("running"))
    takes_all = False
    while True:
        asked_before = len(run.trials)
        left = divide_budget(run.options.budget_s, run.spent_s())
        try:
            _screen(run, search, left.screening_s + (left.duel_s if takes_all else 0.0))
        finally:
            run.search = search.summary()
        choice = choose(run.trials, run.plan.baseline)
        if choice.settings != run.plan.baseline:
            return confirm(run, choice, lambda settings: _obstacle(run, settings))
        if len(run.trials) == asked_before:
            if takes_all:
                run.choice = refine(run, choice, lambda settings: _obstacle(run, settings))
                return ""  # a variant that took its place has won a duel against it
            takes_all = True


def _screen(run: Probe, search: Search, seconds: float) -> None:
    """Ask, run, tell until the search has what it needs or its time is spent."""
    ends_s = time.monotonic() + seconds
    while (leg := search.ask(ends_s - time.monotonic())) is not None:
        number = len(run.trials) + 1
        spec = run.plan.spec(leg, run.cache, run.first_sample(), run.options.seed)
        label = f"num_workers={leg.settings.num_workers} batch_size={leg.settings.batch_size}"
        run.progress.trial_started(number, max(number, search.planned()), label, run.options.budget_s - run.spent_s())
        try:
            result = _run_leg(run, spec, leg, number)
        except KeyboardInterrupt:
            run.trials.append(run.runner.interrupted(spec, leg, number))
            run.notes = search.notes()
            raise
        run.trials.append(result)
        run.count_samples(result)
        search.tell(result)
        run.notes = search.notes()
        run.progress.trial_finished(result, _best(run.trials))
        run.sink.save(run.report("running"))
        refuse_too_many(run.trials, run.plan.workload.sample_count, run.options.max_bad_ratio)
    run.notes = search.notes()


def _run_leg(run: Probe, spec: TrialSpec, leg: Leg, number: int) -> TrialResult:
    """Return the result of a leg: of an earlier probe, of none where something forbids it, or of now."""
    if leg.obstacle is not None:
        return run.runner.skip(spec, leg, number)
    return run.earlier.take(leg, number) or run.runner.run(spec, leg, number, run.deadline_s(spec))


def _obstacle(run: Probe, settings: Settings) -> Obstacle | None:
    """Return what forbids a setting; a baseline that asks for more cores than there are is what the user runs."""
    shares = [share for trial in run.trials if (share := _worker_cores(trial)) is not None]
    worker_cores = max(shares, default=run.plan.needs.worker_cores)
    needs = replace(run.plan.needs, device_points=_device_points(run), worker_cores=worker_cores)
    found = find_obstacle(settings, run.plan.limits, needs)
    is_own = settings == run.plan.baseline and found is not None and found.cause is Cause.CORES
    return None if is_own else found


def _worker_cores(trial: TrialResult) -> float | None:
    """Return the cores that one worker keeps busy when nothing holds it up; None unless the loader ran alone."""
    cost = None if trial.measurement is None else trial.measurement.worker
    if cost is None or not cost.wall_s_per_sample:
        return None
    return min(1.0, cost.cpu_s_per_sample / cost.wall_s_per_sample)


def _device_points(run: Probe) -> dict[int, int]:
    """Return the peak device memory by batch size, as measured so far."""
    return {
        trial.settings.batch_size: trial.measurement.device_memory_bytes
        for trial in run.trials
        if trial.measurement is not None and trial.measurement.device_memory_bytes
    }


def _best(trials: list[TrialResult]) -> TrialResult | None:
    complete = [t for t in trials if t.state is TrialState.COMPLETE and t.role in {"grid", "baseline"}]
    return max(complete, key=lambda trial: trial.rate_per_s or 0.0, default=None)
