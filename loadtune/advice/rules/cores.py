"""Are there too few cores, or does something take them? Preparation, threads, affinity, quota, neighbours."""

from loadtune.advice.case import (
    Case,
    blocked_ratio,
    delayed_ratio,
    resident_trials,
    step_times,
    taken_cores,
    throttled_periods_ratio,
    used_cores,
    wanted_cores,
    with_workers,
    worker_setup,
    worker_times,
)
from loadtune.advice.rules.speaking import (
    Severity,
    cores_evidence,
    covers,
    has_idle_cores,
    is_saturated,
    plain,
    stall_severity,
    stalled,
)
from loadtune.advice.thresholds import BLOCKED, DELAYED, FOREIGN, INFLATED, MOST, QUOTA, STALL
from loadtune.advice.worth import (
    worth_of_feeding,
    worth_of_loader_speed,
    worth_of_share,
    worth_of_stalled_share,
    worth_of_step_time,
)
from loadtune.records.measurement import TrialResult
from loadtune.records.report import Evidence, Finding


def cpu_saturated(case: Case) -> Finding | None:
    """The device waits and the cores are used up, by these processes and by others: more workers cannot help."""
    trial = case.chosen
    stall, cores, blocked = stalled(trial), used_cores(trial), blocked_ratio(trial)
    if stall is None or cores is None or has_idle_cores(case, trial):
        return None
    taken, worth = taken_cores(case, trial), worth_of_feeding(case, trial)
    wanted = wanted_cores(case, trial) or cores
    is_own = is_saturated(case, cores)
    is_shared = not is_own and (is_saturated(case, cores + taken) or taken >= FOREIGN.value * case.limits.usable_cores)
    if not is_own and (blocked or 0.0) >= BLOCKED.value:  # they wait for something else than for a core
        return None
    more = "" if is_own else f", and workers waited for {wanted - cores:.1f} more"
    shown = cores if is_own or is_saturated(case, cores + taken) else wanted
    if is_shared:  # a neighbour has the rest: what its end would win is not won here
        more = f", {taken:.1f} more by others"
        worth = None if worth is None else max(0.0, worth - (_worth_of_neighbour(case, trial, taken) or 0.0))
    dearest, evidence = _dearest(trial)
    return Finding(
        rule="cpu-saturated",
        severity=stall_severity(stall),
        title="The CPU is the limit: more workers will not help",
        detail=f"The device waited {stall:.1%} of the time, "
        f"and {cores:.1f} of {case.limits.usable_cores:g} cores were used{more}.{dearest}",
        action=_cheapen(trial),
        evidence=(STALL.evidence(stall), cores_evidence(case, shown), *evidence),
        confidence="high" if worker_times(case.chosen) is not None else "medium",
        confirm="The rate stays the same with one worker more, and rises with a cheaper transform.",
        worth_per_s=worth,
    )


def _cheapen(trial: TrialResult) -> str:
    """Return how to spend less: on samples, or on putting them together where that is most of a worker's work."""
    times = worker_times(trial)
    if times is None or (times.collate_s_per_sample or 0.0) < MOST.value * times.busy_s_per_sample:
        return "Make a sample cheaper: smaller stored images, decode at reduced size, augment on the GPU."
    return "Put fewer bytes together: hand over uint8, smaller crops, fewer tensors a sample; convert on the GPU."


def _dearest(trial: TrialResult) -> tuple[str, tuple[Evidence, ...]]:
    """Return a sentence on the part of the preparation that takes longest, if parts of __getitem__ were timed."""
    times = worker_times(trial)
    if times is None or not times.parts or times.parts[0].name == "__getitem__":
        return "", ()
    part = times.parts[0]
    share = min(1.0, part.s_per_sample / times.busy_s_per_sample)
    told = f" {part.name} takes longest: {share:.0%} of a worker's time."
    return told, (plain("dearest_part_ratio", share),)


def thread_oversubscription(case: Case) -> Finding | None:
    """More threads than cores: intra-op threads of workers or of the main process fight the workers."""
    trial, setup = case.chosen, worker_setup(case.chosen)
    if trial.measurement is None or setup is None or setup.threads is None:
        return None
    workers = trial.settings.num_workers
    main = (trial.measurement.main_threads or 1) if case.device == "cpu" else 1
    threads, slowed, delayed = workers * setup.threads + main, inflation(case), delayed_ratio(trial)
    is_many = threads > case.limits.usable_cores and (setup.threads > 1 or main > 1)
    is_felt = (delayed is not None and delayed >= DELAYED.value) or (slowed is not None and slowed >= INFLATED.value)
    if not is_many or not is_felt:
        return None
    side = "worker_init_fn: torch.set_num_threads(1)" if setup.threads > 1 else "torch.set_num_threads"
    evidence = [plain("threads", float(threads)), plain("usable_cores", case.limits.usable_cores, "cores")]
    if delayed is not None:
        evidence.append(DELAYED.evidence(delayed))
    if slowed is not None:
        evidence.append(INFLATED.evidence(slowed))
    stall = stalled(trial)
    return Finding(
        rule="thread-oversubscription",
        severity="advice" if stall is None else stall_severity(stall),
        title="More threads than cores: they fight each other",
        detail=f"{workers} workers with {setup.threads} threads each and {main} of the main process share "
        f"{case.limits.usable_cores:g} cores.",
        action=f"Give each fewer threads ({side}, or OMP_NUM_THREADS=1), or use fewer workers.",
        evidence=tuple(evidence),
        confidence="high" if delayed is not None and delayed >= DELAYED.value else "medium",
        confirm="The rate rises with OMP_NUM_THREADS=1.",
        worth_per_s=_worth_of_cores(case, delayed, slowed),
    )


def inflation(case: Case) -> float | None:
    """Return a step's compute time beside the loader by that alone; None where either was not measured."""
    alone = resident_trials(case).get(case.chosen.settings.batch_size)
    own, other = step_times(case.chosen), None if alone is None else step_times(alone)
    return own.compute_s / other.compute_s if own and other and other.compute_s > 0 else None


def _worth_of_cores(case: Case, delayed: float | None, slowed: float | None) -> float | None:
    """Return what it would win if nobody waited for a core: for workers by their delay, for steps by theirs."""
    if stalled(case.chosen) is not None:
        if delayed is None:
            return worth_of_feeding(case, case.chosen)
        return worth_of_loader_speed(case, case.chosen, 1.0 / (1.0 - min(0.9, delayed)))
    own = step_times(case.chosen)
    if own is None or slowed is None or slowed <= 1:
        return None
    return worth_of_step_time(case.chosen, own.compute_s * (1.0 - 1.0 / slowed))


def pinned_workers(case: Case) -> Finding | None:
    """The workers together may run on fewer CPUs than there are workers, while the process may use more."""
    trial = with_workers(case, 2)
    setup, usable = None if trial is None else worker_setup(trial), case.limits.usable_cores
    if trial is None or setup is None or setup.cpus is None:
        return None
    workers = trial.settings.num_workers
    if setup.cpus >= min(workers, int(usable)) or setup.cpus >= case.limits.affinity_cores:
        return None
    stall = stalled(trial)
    cpus = "one CPU" if setup.cpus == 1 else f"{setup.cpus} CPUs"
    speed_up = min(float(workers), usable) / setup.cpus
    return Finding(
        rule="pinned-workers",
        severity="info" if stall is None else "warning",
        title=f"All workers are held to {cpus}",
        detail=f"{workers} workers may run on {cpus} together; this process may use {usable:g} cores.",
        action="Find what sets the affinity in the workers (an import, or worker_init_fn), or undo it: "
        "cpus = os.sched_getaffinity(0) as the script begins, os.sched_setaffinity(0, cpus) in worker_init_fn.",
        evidence=(
            plain("worker_cpus", float(setup.cpus)),
            plain("usable_cores", usable, "cores"),
            *(() if stall is None else (STALL.evidence(stall),)),
        ),
        confirm="taskset -cp PID of a worker.",
        worth_per_s=None
        if stall is None
        else _worth_over_chosen(case, worth_of_loader_speed(case, trial, speed_up), trial),
    )


def _worth_over_chosen(case: Case, worth: float | None, trial: TrialResult) -> float | None:
    """Return what a gain of another setting is worth beside the chosen one, which may be faster already."""
    if worth is None or not case.chosen.rate_per_s or not trial.rate_per_s:
        return None
    return max(0.0, trial.rate_per_s + worth - case.chosen.rate_per_s)


def cpu_quota(case: Case) -> Finding | None:
    """The control group's CPU quota holds the processes back in many of its periods."""
    ratio = throttled_periods_ratio(case.chosen.trace)
    if ratio is None or ratio < QUOTA.value:
        return None
    stall, quota = stalled(case.chosen), case.limits.quota_cores
    severity: Severity = "info" if stall is None and case.device != "cpu" else "warning"
    if stall is not None and not covers(stall, ratio):
        severity = "advice"
    told = "" if quota is None else f" of {quota:g} cores"
    return Finding(
        rule="cpu-quota",
        severity=severity,
        title="The CPU quota holds the training back",
        detail=f"In {ratio:.0%} of its periods the control group had used up its quota{told} and had to wait.",
        action="Raise the quota (Docker --cpus, Kubernetes limits.cpu), or use no more workers and threads than it "
        "has cores.",
        evidence=(QUOTA.evidence(ratio), *(() if quota is None else (plain("quota_cores", quota, "cores"),))),
        confirm="nr_throttled in the group's cpu.stat grows while training.",
        worth_per_s=worth_of_stalled_share(case, case.chosen, ratio) if stall is not None else None,
    )


def foreign_load(case: Case) -> Finding | None:
    """Others, or the hypervisor, took cores during the trials that these could have used."""
    taken = [(taken_cores(case, trial), trial) for trial in case.trials if trial.trace is not None]
    limit = FOREIGN.value * case.limits.usable_cores
    if not taken or max(each for each, _ in taken) < limit:
        return None
    # The chosen setting's own trial tells most; where it was left alone, the comparison still rests on the other.
    most, trial = taken[0] if taken[0][0] >= limit else max(taken, key=lambda each: each[0])
    worth = _worth_of_neighbour(case, trial, most)
    is_felt = case.device == "cpu" or stalled(case.chosen) is not None or bool(worth)
    evidence = Evidence(name=FOREIGN.name, value=most, unit="cores", threshold=limit, source=FOREIGN.source)
    return Finding(
        rule="foreign-load",
        severity="warning" if is_felt else "info",
        title="Something else used this machine's cores meanwhile",
        detail=f"Up to {most:.1f} of {case.limits.usable_cores:g} cores were taken by others.",
        action="Measure again on an idle machine, if the training will have it for itself.",
        evidence=(evidence,),
        confirm="top shows who it is; the rate rises once it has ended.",
        worth_per_s=worth,
    )


def _worth_of_neighbour(case: Case, trial: TrialResult, taken: float) -> float | None:
    """Return what the taken cores would win where cores are what lacks; None where they do not, or it is not known."""
    own = used_cores(trial)
    if trial is not case.chosen or own is None or not own:
        return None
    if has_idle_cores(case, trial):
        return 0.0
    if case.device == "cpu":
        return worth_of_share(trial, taken / (own + taken))
    if stalled(trial) is None:
        own_step, slowed = step_times(trial), inflation(case)
        if own_step is None or slowed is None or slowed < INFLATED.value:
            return 0.0
        return worth_of_step_time(trial, own_step.compute_s * (1.0 - 1.0 / slowed))
    delayed = delayed_ratio(trial)  # the workers' own word for what a neighbour costs them
    factor = (own + taken) / own if delayed is None else 1.0 / (1.0 - min(0.9, delayed))
    return worth_of_loader_speed(case, trial, factor)
