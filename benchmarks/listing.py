"""What does it cost to list a million samples, and does reading them cost the DataLoader's workers memory?

    python -m benchmarks.listing [--samples 1000000] [--folder DIR]

Quantities:

- seconds, and seconds a million files: `list_dataset` on paired folders, against a bare `os.scandir` walk that
  reads names and types and keeps nothing. Each repeat is a process of its own, which also gives the peak of memory.
- bytes a sample of the finished index.
- growth of the summed PSS of a parent and 2 forked workers while each worker reads every pair once, for the
  index and, for contrast, for a list of tuples of str, whose reference counts are written by reading.

Caveats: the files are empty and were just created, so the directories are in memory: a first listing from disk or
network takes longer, for the walk alike. They are files of their own and not hard links, since ext4 allows 65000
links to a file. Two folders hold all names; many small folders cost one more system call each. Names are created
in shuffled order, or the sorting would be for free.

It goes on where an earlier run stopped if machine, versions and --samples are the same.
"""

import argparse
import gc
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.record import Criterion, at_least, at_most, has, load, measure, save, show, values
from loadtune.dataset.detect import list_dataset

REPEATS = 3
WORKERS = 2
SEED = 0

LISTING_LIMIT_S = 5.0
"""Seconds a million files: what someone waits at the prompt without wondering, and as long as torch's import."""

SAMPLE_LIMIT_BYTES = 33
"""Index bytes a sample: a third of a list of str."""

GROWTH_LIMIT_BYTES = 1.0
"""PSS growth a sample over an epoch. The index itself has some 20 and a tuple of two str 200: nothing that kept or
copied objects could stay below it, and the interpreter's own few hundred kilobytes do."""

CONTRAST_BYTES = 50.0
"""What the list has to grow by, a sample; less, and the instrument would not see growth at all."""


class Pairs(Protocol):
    """What a worker reads: an index, or a list in the same clothes."""

    def __len__(self) -> int: ...

    def pair(self, number: int, /) -> tuple[str, str]:
        """Return one pair."""


class ListedPairs:
    """The pairs as Python objects."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def pair(self, number: int, /) -> tuple[str, str]:
        """Return one pair."""
        return self._pairs[number]


def main() -> None:
    """Measure what is missing, save after each measurement, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    record = load("listing", seeds=[SEED], samples=arguments.samples)
    if not _is_complete(record):
        folder = Path(tempfile.mkdtemp(prefix="loadtune-listing-", dir=arguments.folder))
        try:
            make_samples(folder, arguments.samples)
            measure_listing(record, folder, arguments.samples)
            measure_growth(record, folder, arguments.samples)
        finally:
            shutil.rmtree(folder)
    criteria = judge(record)
    path = save(record, criteria)
    show(record, criteria)
    print(f"wrote {path}")


def make_samples(folder: Path, count: int) -> None:
    """Create empty images and masks in shuffled order."""
    numbers = list(range(count))
    random.Random(SEED).shuffle(numbers)
    for kind, ending in (("images", ".jpg"), ("masks", "_mask.png")):
        (folder / kind).mkdir()
        descriptor = os.open(folder / kind, os.O_RDONLY)
        for number in numbers:
            os.close(os.open(f"sample_{number:07d}{ending}", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=descriptor))
        os.close(descriptor)


def measure_listing(record: dict[str, Any], folder: Path, count: int) -> None:
    """Time the bare walk and the listing by turns, so that drift favours neither."""
    variants: dict[str, Callable[[Path], dict[str, float]]] = {"os.scandir": _walk, "list_dataset": _list}
    for repeat in range(REPEATS):
        for variant, run in variants.items():
            if has(record, variant=variant, repeat=repeat):
                continue
            with measure(record, samples=count, variant=variant, repeat=repeat) as measured:
                result = _in_child(run, folder)
                for quantity, unit in (("duration", "s"), ("index", "bytes"), ("peak memory", "bytes")):
                    if quantity in result:
                        measured.add(quantity, result[quantity], unit)
                measured.add("duration a million files", result["duration"] / (2 * count) * 1e6, "s")
                if "index" in result:
                    measured.add("index a sample", result["index"] / count, "bytes")
            save(record)


def measure_growth(record: dict[str, Any], folder: Path, count: int) -> None:
    """Fork workers over the index, then over a list of the same pairs."""
    with list_dataset(folder).index as index:
        sources: dict[str, Callable[[], Pairs]] = {
            "epoch over index": lambda: index,
            "epoch over list of str": lambda: ListedPairs([index.pair(number) for number in range(len(index))]),
        }
        for variant, make in sources.items():
            for repeat in range(REPEATS):
                if has(record, variant=variant, repeat=repeat):
                    continue
                pairs = make()
                with measure(record, samples=count, variant=variant, repeat=repeat) as measured:
                    before, after = _summed_pss(pairs)
                    measured.add("PSS before", before, "bytes")
                    measured.add("PSS growth", after - before, "bytes")
                    measured.add("PSS growth a sample", (after - before) / count, "bytes")
                del pairs
                save(record)


def judge(record: dict[str, Any]) -> list[Criterion]:
    """Return the criteria, computed from the rows."""
    listing = values(record, variant="list_dataset", quantity="duration")
    walking = values(record, variant="os.scandir", quantity="duration")
    ratios = [ours / bare for ours, bare in zip(listing, walking, strict=False)]
    seconds = values(record, variant="list_dataset", quantity="duration a million files")
    index = values(record, variant="list_dataset", quantity="index a sample")
    growth = values(record, variant="epoch over index", quantity="PSS growth a sample")
    contrast = values(record, variant="epoch over list of str", quantity="PSS growth a sample")
    return [
        at_most("listing a million files", LISTING_LIMIT_S, "s", seconds),
        at_most("listing against a bare os.scandir walk", 6, "times", ratios),
        at_most("index", SAMPLE_LIMIT_BYTES, "bytes a sample", index),
        at_most("PSS growth of parent and 2 workers over an epoch", GROWTH_LIMIT_BYTES, "bytes a sample", growth),
        at_least("the same for a list of str, to show that growth is seen", CONTRAST_BYTES, "bytes a sample", contrast),
    ]


def _is_complete(record: dict[str, Any]) -> bool:
    variants = ("os.scandir", "list_dataset", "epoch over index", "epoch over list of str")
    return all(has(record, variant=variant, repeat=repeat) for variant in variants for repeat in range(REPEATS))


def _walk(folder: Path) -> dict[str, float]:
    began_s = time.perf_counter()
    pending, files = [os.fsencode(folder)], 0
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    files += 1
                else:
                    pending.append(entry.path)
    return {"duration": time.perf_counter() - began_s}


def _list(folder: Path) -> dict[str, float]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status_bytes("VmRSS")
    began_s = time.perf_counter()
    listing = list_dataset(folder)
    duration_s = time.perf_counter() - began_s
    peak = _status_bytes("VmHWM") - before
    return {"duration": duration_s, "index": listing.index.nbytes, "peak memory": peak}


def _status_bytes(name: str) -> int:
    """Read `VmHWM:     12345 kB`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _in_child(run: Callable[[Path], dict[str, float]], folder: Path) -> dict[str, float]:
    """Run in a forked process, so that no repeat finds the memory of another."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writing, json.dumps(run(folder)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    result: dict[str, float] = json.loads(answer)
    return result


def _summed_pss(pairs: Pairs) -> tuple[int, int]:
    """Return the PSS of this process and its workers, before and after each worker reads every pair once."""
    for number in range(len(pairs)):
        pairs.pair(number)  # now the pages that reading maps are mapped, and count before as after
    gc.collect()
    answers, workers = os.pipe(), {}
    for _ in range(WORKERS):
        orders = os.pipe()  # one each: of a pipe in common, the quicker worker would read the other's order
        worker = os.fork()
        if worker == 0:
            _work(pairs, orders[0], answers[1])
        workers[worker] = orders
    pss = []
    for _ in range(2):
        ready = 0
        while ready < WORKERS:
            ready += len(os.read(answers[0], WORKERS - ready))
        pss.append(sum(map(_pss_bytes, [os.getpid(), *workers])))
        for _, writing in workers.values():
            os.write(writing, b".")
    for worker, orders in workers.items():
        os.waitpid(worker, 0)
        os.close(orders[0])
        os.close(orders[1])
    os.close(answers[0])
    os.close(answers[1])
    return pss[0], pss[1]


def _work(pairs: Pairs, orders: int, answers: int) -> None:
    """Be a worker: say ready, wait, read an epoch, say ready, wait, end."""
    for number in range(min(1000, len(pairs))):
        pairs.pair(number)
    os.write(answers, b".")
    os.read(orders, 1)
    for number in range(len(pairs)):
        pairs.pair(number)
    os.write(answers, b".")
    os.read(orders, 1)
    os._exit(0)


def _pss_bytes(process: int) -> int:
    """Read `Pss:               12345 kB`."""
    lines: Sequence[str] = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
