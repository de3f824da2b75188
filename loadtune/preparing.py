"""What must be known and started before the first trial? Data, machine, device, plan and page cache, as one Probe."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from loadtune import options as asked
from loadtune.advice.cautions import FOREIGN_RATIO
from loadtune.advice.feasibility import find_obstacle
from loadtune.advice.terms import Choice
from loadtune.concluding import (
    BAD_SAMPLES_SHOWN,
    Conclusion,
    list_bad_samples,
)
from loadtune.dataset.detect import Listing, list_dataset
from loadtune.engine.duel import STRIDE_SAMPLES
from loadtune.engine.here import Here
from loadtune.engine.launcher import Launcher
from loadtune.engine.runner import Runner
from loadtune.engine.sides import Arena
from loadtune.errors import UsageError
from loadtune.holding import describe_held, read_own_memory_bytes, set_aside
from loadtune.monitor.environment import collect_environment
from loadtune.monitor.nvml import Nvml
from loadtune.options import ProbeOptions
from loadtune.payload import share_objects
from loadtune.planning import Plan, make_plan, wanted_cuda, workload_to_look_at
from loadtune.records.measurement import Cause, Duel, TrialResult, TrialState
from loadtune.records.messages import CacheTask, Inspected, InspectTask, Sources
from loadtune.records.report import Ceilings, DatasetSummary, Report, Request, SearchSummary
from loadtune.records.resources import Environment, HostLimits, Reading
from loadtune.records.settings import CacheState, TrialSpec
from loadtune.render.progress import Progress
from loadtune.render.words import format_device
from loadtune.resuming import Earlier
from loadtune.version import __version__

CACHE_READ_SHARE = 0.1
"""Of the budget, the longest reading of files before the trials; what it does not reach is read by them."""
INSPECT_SHARE, INSPECT_LIMIT_MIN_S = 0.5, 30.0
"""Of the budget, the longest look at the data, importing the user's module included; then nothing could be measured."""
CACHE_FIT_RATIO = 0.5
"""Share of the free memory that data may take to be measured warm: beyond it the kernel evicts what it just read."""
NESTED_MAX = 8
"""Data sets within data sets (Subset and the like) that are looked into; one that names itself would never end."""
BUILD_LIMIT_S = 30.0
"""Longest a trial may take to build data and model and warm the device; a model on a busy GPU takes ten."""

Status = Literal["running", "complete", "interrupted", "failed"]


class Sink(Protocol):
    """Where reports go as they grow."""

    def save(self, report: Report) -> None:
        """Keep an unfinished report."""

    def finish(self, report: Report) -> None:
        """Keep the finished one."""


@dataclass(slots=True)
class Probe:
    """One probe under way: what is known so far, and the means to learn more."""

    options: ProbeOptions
    plan: Plan
    request: Request
    environment: Environment
    dataset: DatasetSummary
    runner: Runner
    arena: Arena | None
    """Where duels are held; None where trials run in this process, which cannot be stopped by turns."""
    sink: Sink
    progress: Progress
    began_s: float
    created: str
    start_up_s: float
    cache: CacheState
    trials: list[TrialResult] = field(default_factory=list)
    duels: list[Duel] = field(default_factory=list)
    choice: Choice | None = None
    """What was confirmed; None until then."""
    search: SearchSummary | None = None
    facts: dict[str, str] | None = None
    earlier: Earlier = field(default_factory=Earlier)
    """Trials of the probe that this one goes on with."""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    samples_used: int = 0
    readings: tuple[Reading, ...] = ()

    def spent_s(self) -> float:
        """Seconds since the budget began to run."""
        return time.monotonic() - self.began_s

    def first_sample(self) -> int:
        """Return where in the order the next trial begins: further on where the cache must not be warm for it."""
        return 0 if "warm" in self.cache else self.samples_used

    def count_samples(self, trial: TrialResult) -> None:
        """Count what a trial read; one that failed may have read any number."""
        seen = STRIDE_SAMPLES if trial.measurement is None else trial.measurement.samples_seen
        self.samples_used += 0 if trial.state is TrialState.SKIPPED else seen

    def deadline_s(self, spec: TrialSpec) -> float:
        """Return when a trial is ended: after its cap and a slow build, but no later than the budget allows."""
        soonest_s = time.monotonic() + spec.measure.cap_s
        return min(soonest_s + BUILD_LIMIT_S, max(soonest_s, self.began_s + self.options.budget_s))

    def report(self, status: Status, conclusion: Conclusion | None = None) -> Report:
        """Return what is known as a report."""
        bad = list_bad_samples(self.trials)
        listed = tuple(f"{each.name}: {each.reason}" for each in bad[:BAD_SAMPLES_SHOWN])
        return Report(
            loadtune_version=__version__,
            created=self.created,
            status=status,
            request=self.request,
            environment=self.environment,
            dataset=msgspec.structs.replace(self.dataset, bad_samples=listed, bad_sample_count=len(bad)),
            trials=tuple(self.trials),
            duels=tuple(self.duels),
            ceilings=Ceilings() if conclusion is None else conclusion.ceilings,
            findings=() if conclusion is None else conclusion.findings,
            attribution=None if conclusion is None else conclusion.attribution,
            recommendation=None if conclusion is None else conclusion.recommendation,
            facts=self.facts,
            search=self.search,
            readings=self.readings,
            search_notes=self.notes,
            warnings=self.warnings,
            seconds_spent=self.spent_s(),
            start_up_s=self.start_up_s,
        )


def prepare(
    options: ProbeOptions,
    launcher: Launcher | Here,
    nvml: Nvml,
    sink: Sink,
    progress: Progress,
    began_s: float,
    stack: ExitStack,
) -> Probe:
    """Recognise data and machine while the zygote imports torch, then make the plan."""
    target = _target_of(options)
    listing = None
    if target is None and "dataset" not in options.objects:
        listing = list_dataset(Path(options.dataset), options.layout, options.split)
        if listing.index is not None:
            stack.callback(listing.index.close)
        progress.note(f"{listing.described}: {listing.sample_count:,} samples")
    environment = collect_environment(None if listing is None else options.dataset, nvml, options.ranks_per_node)
    environment = msgspec.structs.replace(environment, limits=set_aside(options.held, environment.limits))
    travels = isinstance(launcher, Launcher)
    payload_path = share_objects(options.objects, stack) if options.objects and travels else None
    index = None if listing is None else listing.index
    sources = Sources(index_path=None if index is None else index.shared_path, payload_path=payload_path)
    launcher.wait_until_ready()
    start_up_s = time.monotonic() - began_s
    own_bytes = 0 if travels else read_own_memory_bytes()
    runner = Runner(launcher, nvml, environment.limits, sources, began_s, own_bytes)
    workload = (
        workload_to_look_at(options, target)
        if listing is None
        else workload_to_look_at(options, None, listing.masks, listing.stored, listing.sample_count)
    )
    batches = asked.parse_batches(options) or (2,)
    progress.phase("looking at the data and the device")
    look = InspectTask(workload=workload, sources=sources, batch_size=batches[0], cuda_index=wanted_cuda(options))
    looked = runner.inspect(look, max(INSPECT_LIMIT_MIN_S, INSPECT_SHARE * options.budget_s))
    plan = make_plan(options, workload, environment.limits, looked)
    progress.note(f"device: {format_device(plan.device)}")
    cache, cache_warnings = _settle_cache(options, plan, runner, listing, sources, looked, progress)
    return Probe(
        options=options,
        plan=plan,
        request=_describe_request(options, plan),
        environment=environment,
        dataset=_describe(options, listing, looked, plan),
        runner=runner,
        arena=_open_arena(launcher, sources, runner, environment.limits),
        sink=sink,
        progress=progress,
        began_s=began_s,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        start_up_s=start_up_s,
        cache=cache,
        warnings=(
            *plan.warnings,
            *cache_warnings,
            *_shm_warnings(plan),
            *_unreadable_warnings(looked),
            *_fork_warnings(options, environment),
            *describe_held(options.held),
        ),
    )


def _open_arena(launcher: Launcher | Here, sources: Sources, runner: Runner, limits: HostLimits) -> Arena | None:
    if isinstance(launcher, Here):
        return None
    return Arena(
        launcher=launcher,
        sources=sources,
        memory_end_bytes=runner.memory_end_bytes,
        foreign_limit_cores=limits.spare_cores + FOREIGN_RATIO * limits.usable_cores,
    )


def _describe_request(options: ProbeOptions, plan: Plan) -> Request:
    return Request(
        command=options.command or ("loadtune.probe()",),
        dataset=options.dataset,
        device=plan.device,
        workload=plan.workload,
        budget_s=options.budget_s,
        baseline=plan.baseline,
        baseline_origin=plan.baseline_origin,
        num_workers=asked.parse_workers(options),
        batch_sizes=asked.parse_batches(options),
        epochs=options.epochs,
        order_seed=options.seed,
        ranks_per_node=options.ranks_per_node,
        handed_over=tuple(sorted(options.objects)),
    )


def _target_of(options: ProbeOptions) -> str | None:
    """Return the reference to the user's own data; None where `dataset` is a folder or was handed over."""
    if "dataset" in options.objects or Path(options.dataset).exists() or ":" not in options.dataset:
        return None
    if options.layout is not None or options.split is not None:
        raise UsageError("--layout and --split are for folders", "leave them out with a data set of your own")
    return options.dataset


def _describe(options: ProbeOptions, listing: Listing | None, looked: Inspected, plan: Plan) -> DatasetSummary:
    if listing is None:
        kind = "iterable data set" if looked.is_iterable else "data set"
        described = f"your own {kind}" + (", in a DataLoader" if looked.loader_settings is not None else "")
        described += ", its pictures cropped and scaled as DeepLab does" if looked.is_prepared else ""
        return DatasetSummary(
            source=options.dataset,
            layout="target",
            described=described,
            sample_count=looked.sample_count,
            fixed_axes=looked.fixed_axes,
        )
    return DatasetSummary(
        source=options.dataset,
        layout=listing.layout,
        described=listing.described,
        sample_count=listing.sample_count,
        split=listing.split,
        left_out=listing.left_out,
        total_bytes=listing.total_bytes,
        class_count=plan.workload.class_count,
        is_binary_mask=plan.workload.is_binary_mask,
    )


def _settle_cache(
    options: ProbeOptions,
    plan: Plan,
    runner: Runner,
    listing: Listing | None,
    sources: Sources,
    looked: Inspected,
    progress: Progress,
) -> tuple[CacheState, list[str]]:
    """Bring the page cache into the state that every trial is to find."""
    if options.cold and listing is not None and listing.index is not None:
        return "cold", []
    if listing is None or listing.index is None:
        return _warm_own(options, plan, runner, sources, looked, progress)
    per_pair = looked.mean_pair_bytes
    total = listing.total_bytes or (0 if per_pair is None else int(per_pair * len(listing.index)))
    if total > CACHE_FIT_RATIO * plan.limits.memory_available_bytes:
        return "streaming", []
    progress.phase("reading the files once, so that no trial warms the cache for the next")
    task = CacheTask(
        workload=plan.workload,
        sources=sources,
        order_seed=options.seed,
        limit_s=CACHE_READ_SHARE * options.budget_s,
    )
    read = runner.read_files(task)
    if read.is_complete:
        return "warm", []
    told = f"only {read.samples:,} of {len(listing.index):,} samples could be read into the page cache beforehand"
    hint = "trials that go further read from storage: see miss_ratio, or give a longer --budget"
    return "partly warm", [f"{told}\n{hint}"]


def _warm_own(
    options: ProbeOptions, plan: Plan, runner: Runner, sources: Sources, looked: Inspected, progress: Progress
) -> tuple[CacheState, list[str]]:
    """Go through the user's own data once: which files they open is not known, so they cannot be dropped or skipped."""
    warnings = ["--cold cannot drop files that your own data set opens\nthe cache was warmed"] if options.cold else []
    progress.phase("going through your data once, so that no trial warms the cache for the next")
    limit_s = CACHE_READ_SHARE * options.budget_s
    read = runner.read_files(
        CacheTask(workload=plan.workload, sources=sources, order_seed=options.seed, limit_s=limit_s)
    )
    if not read.is_complete:
        of = "" if looked.sample_count is None else f" of {looked.sample_count:,}"
        told = f"only {read.samples:,}{of} samples could be read into the page cache beforehand"
        warnings.append(f"{told}\ntrials that go further read from storage: see miss_ratio")
    return "warm" if read.is_complete else "partly warm", warnings


def _unreadable_warnings(looked: Inspected) -> list[str]:
    """Say what the first look could not read; the trials will meet it again."""
    if not looked.unreadable:
        return []
    first, count = looked.unreadable[0], len(looked.unreadable)
    return [f"the first look met {count} broken samples, such as {first.name}: {first.reason}\nthey are skipped"]


def _fork_warnings(options: ProbeOptions, environment: Environment) -> list[str]:
    """Say where the workers measured are not started as the user's will be."""
    data = options.objects.get("dataset")
    context = getattr(data, "multiprocessing_context", None)
    method = environment.start_method if context is None else context.get_start_method()
    if data is None or method == "fork" or (context is not None and not _is_of_script(data)):
        return []
    told = f"workers were forked, since the script's own classes cannot travel by {method}"
    return [f"{told}\nthe steady state is the same; yours take longer to start: keep persistent_workers=True in mind"]


def _is_of_script(data: Any) -> bool:
    """Say whether a loader, a data set within it or one of its functions is defined in the script itself."""
    parts = [getattr(data, name, None) for name in ("collate_fn", "worker_init_fn")]
    for _ in range(NESTED_MAX):
        parts.append(type(data))
        data = getattr(data, "dataset", None)
    return any(getattr(each, "__module__", None) == "__main__" for each in parts)


def _shm_warnings(plan: Plan) -> list[str]:
    """Say how much shared memory to ask for where not even one worker fits."""
    one = msgspec.structs.replace(plan.baseline, num_workers=1, prefetch_factor=None, persistent_workers=False)
    obstacle = find_obstacle(one, plan.limits, plan.needs)
    if obstacle is None or obstacle.cause is not Cause.SHARED_MEMORY:
        return []
    batch_bytes = plan.baseline.batch_size * (plan.needs.sample_bytes or 0)
    wanted = -(-(2 * 8 + 2) * batch_bytes // 2**30)
    return [
        f"not even one worker fits into /dev/shm: {obstacle.arithmetic}\nstart the container with --shm-size {wanted}g"
    ]
