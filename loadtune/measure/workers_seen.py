"""What did the workers say of themselves? Their batches' times and their first words, as records; pure."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, median, stdev

from loadtune.measure.batch_clock import Work
from loadtune.measure.loader import Stamp
from loadtune.measure.worker_clock import STREAM, Hello
from loadtune.records.measurement import PartCost, WorkerSetup, WorkerTimes
from loadtune.records.resources import Unavailable

OUTLIER = 5.0
"""Times the median from which a sample counts as slow, as for the rule: the largest of 16 photographs takes three."""
PARTS_MAX = 8
"""Parts named; the rest would fill the report."""


def summarise_times(stamps: Sequence[Stamp], per_batch: float) -> WorkerTimes | None:
    """Return where the time of a sample goes; None where no batch was timed.

    What the worker's other threads compute is no waiting: `blocked` is what no thread of it accounts for. Where several
    compute side by side while the main thread waits for something else, it is therefore too small.

    Args:
        stamps: Of batches made by workers while measuring.
        per_batch: Samples of a batch whose stamp does not say how many it holds.
    """
    timed = [stamp for stamp in stamps if stamp.work is not None]
    works = [stamp.work for stamp in timed if stamp.work is not None]
    samples = sum(per_batch if stamp.samples is None else stamp.samples for stamp in timed)
    if not samples:
        return None
    busy_s, cpu_s = sum(work.busy_s for work in works), sum(work.cpu_s for work in works)
    working_s = max(cpu_s, sum(work.process_cpu_s for work in works))
    delayed_s = _sum_known([work.delayed_s for work in works])
    blocked_s = None if delayed_s is None else max(0.0, busy_s - delayed_s - working_s)
    batches_s = [work.busy_s for work in works]
    medians_s = [work.median_s for work in works if work.median_s is not None]
    slowest, slowest_in = _slowest(timed)
    return WorkerTimes(
        busy_s_per_sample=busy_s / samples,
        cpu_s_per_sample=cpu_s / samples,
        delayed_s_per_sample=None if delayed_s is None else delayed_s / samples,
        blocked_s_per_sample=None if blocked_s is None else blocked_s / samples,
        collate_s_per_sample=sum(work.collate_s for work in works) / samples,
        batch_spread_ratio=stdev(batches_s) / fmean(batches_s) if len(works) > 2 and fmean(batches_s) > 0 else None,
        median_sample_s=median(medians_s) if medians_s else None,
        slowest_sample_s=None if slowest is None else slowest.slowest_s,
        slowest_index=None if slowest is None else slowest.slowest_index,
        slowest_in=slowest_in,
        slow_excess_ratio=_slow_excess_s(works, median(medians_s)) / busy_s if medians_s and busy_s > 0 else None,
        parts=_parts(works, samples),
        minor_faults_per_sample=sum(work.minor_faults for work in works) / samples,
    )


def _slowest(stamps: Sequence[Stamp]) -> tuple[Work | None, str | None]:
    """Return the batch with the slowest sample, and what that one's index counts in; None where none is known."""
    found = [
        (stamp.work, stamp.worker) for stamp in stamps if stamp.work is not None and stamp.work.slowest_s is not None
    ]
    if not found:
        return None, None
    work, worker = max(found, key=lambda each: each[0].slowest_s or 0.0)
    if work.slowest_index is None:
        return work, None
    return work, f"{STREAM} {worker}" if work.indexed == STREAM else work.indexed


def _sum_known(values: Sequence[float | None]) -> float | None:
    """Return the sum; None where one of them is."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _slow_excess_s(works: Sequence[Work], median_s: float) -> float:
    """Return by how much the slow samples exceed the usual: of each batch its slowest, if the batch around it is not.

    A batch whose samples are all slow holds no slow sample; its spread beside other batches is told apart.
    """
    usual = [(each.slowest_s or 0.0, max(median_s, each.median_s or 0.0)) for each in works]
    return sum(slowest_s - usual_s for slowest_s, usual_s in usual if slowest_s > OUTLIER * usual_s)


def _parts(works: Sequence[Work], samples: float) -> tuple[PartCost, ...]:
    """Return the named parts, collate_fn among them, and what is left of the samples' time; dearest first."""
    sums: dict[str, float] = defaultdict(float)
    for work in works:
        for name, part_s in work.parts:
            sums[name] += part_s
    named_s, collate_s = sum(sums.values()), sum(work.collate_s for work in works)
    rest_s = sum(work.busy_s for work in works) - named_s - collate_s
    sums["collate_fn"] = collate_s
    sums["the rest of __getitem__" if named_s else "__getitem__"] = max(0.0, rest_s)
    ranked = sorted(sums.items(), key=lambda item: -item[1])[:PARTS_MAX]
    return tuple(PartCost(name=name, s_per_sample=part_s / samples) for name, part_s in ranked)


def summarise_setup(stamps: Sequence[Stamp], workers: int, start_method: str, began_s: float) -> WorkerSetup | None:
    """Return what the workers are; None without any that spoke.

    Args:
        stamps: Of all batches.
        workers: How many there are.
        start_method: multiprocessing's word.
        began_s: time.monotonic() when the loader was started.
    """
    first: dict[int, Hello] = {}
    for stamp in stamps:
        if stamp.worker is not None and stamp.hello is not None:
            first.setdefault(stamp.worker, stamp.hello)
    if not first:
        return None
    hellos = list(first.values())
    missing = [Unavailable(reading="worker.times", reason=hello.reason) for hello in hellos if hello.reason][:1]
    if not missing and all(stamp.work is None for stamp in stamps):
        missing.append(Unavailable(reading="worker.times", reason="samples come by no method that is watched"))
    repeated, why = _repeated_ratio(hellos) if len(first) == workers else (None, "a worker gave no batch")
    if why is not None:
        missing.append(Unavailable(reading="setup.repeated_ratio", reason=why))
    has_all = len(first) == workers
    return WorkerSetup(
        start_method=start_method,
        start_s=max(0.0, max(hello.started_s for hello in hellos) - began_s) if has_all else None,
        cpus=len(set().union(*(hello.cpus for hello in hellos))) if has_all else None,
        threads=max(hello.threads for hello in hellos),
        repeated_ratio=repeated,
        unavailable=tuple(missing),
    )


def _repeated_ratio(hellos: Sequence[Hello]) -> tuple[float | None, str | None]:
    """Return the share of first samples that another worker gave as well, or None and the reason."""
    prints = [hello.prints for hello in hellos]
    reason = next((hello.prints_reason for hello in hellos if hello.prints_reason is not None), None)
    if reason is not None:
        return None, reason
    if len(prints) < 2:
        return None, "one worker repeats nothing"
    if min(len(set(each)) for each in prints) < 2:
        return None, "the samples of one worker are alike, so that likeness tells nothing"
    again = total = 0
    for place, own in enumerate(prints):
        others = set().union(*(each for number, each in enumerate(prints) if number != place))
        again += sum(each in others for each in own)
        total += len(own)
    return again / total, None
