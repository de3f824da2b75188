"""What does a `Recipe` of `diagnosis_recipe` train on? A real DataLoader with real costs, made of torch alone.

Trial processes import this module by name, so it imports nothing of the project but the recipes. Its attributes are
factories, named as `diagnosis_names` says, so that anybody can probe them: `pinned__material__103`.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from benchmarks.diagnosis_names import parse_name
from benchmarks.diagnosis_recipe import BATCH, LONG_EVERY, SLOW_EVERY, Recipe

FILE = Path(tempfile.gettempdir()) / "loadtune-diagnosis.bin"
"""Random bytes that cold reads go through. On a file system in memory nothing is ever cold: `diagnosis` looks."""
FILE_BYTES = 1 << 28


class Cost:
    """Makes one sample, and costs what the recipe says."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._pickled = bytearray(recipe.pickled_bytes)
        # A list of objects is what makes every reader write: their reference counts lie beside them.
        self._held = list(range(10**6, 10**6 + recipe.held_objects))
        # As many sets as the largest batch has samples: pickle writes a list that it has met as a mere reference.
        self._boxes = [[[0.1, 0.2, 0.3, 0.4] for _ in range(recipe.boxes)] for _ in range(4 * BATCH)]
        self._made = 0
        self._file: int | None = None

    def make(self, number: int) -> Any:
        """Return sample `number`: its number first, then its bytes."""
        recipe = self._recipe
        wait_s = recipe.wait_s * self._unevenness() + (recipe.slow_s if number % SLOW_EVERY == 0 else 0.0)
        self._made += 1
        if wait_s:
            time.sleep(wait_s)
        if recipe.read_bytes:
            self._read(number)
        if self._held:
            self._touch()
        if recipe.sines:
            numbers = torch.ones(recipe.sine_numbers)
            for _ in range(recipe.sines):
                numbers = numbers.sin()
        burn(recipe.burn_s)
        content = torch.full((max(8, recipe.sample_bytes),), number % 251, dtype=torch.uint8)
        content[:8] = torch.tensor(list(number.to_bytes(8, "little")), dtype=torch.uint8)
        return (content, self._boxes[self._made % len(self._boxes)]) if recipe.boxes else content

    def _unevenness(self) -> float:
        """Return how much longer this batch takes; over `LONG_EVERY` batches of a worker the mean is 1."""
        long = self._recipe.uneven
        if long == 1.0:
            return 1.0
        is_long = self._made // self._recipe.batch_size % LONG_EVERY == 0
        return long if is_long else (LONG_EVERY - long) / (LONG_EVERY - 1)

    def _read(self, number: int) -> None:
        if self._file is None:
            self._file = os.open(FILE, os.O_RDONLY)
        left, at = self._recipe.read_bytes, Random(number).randrange(FILE_BYTES // 2**12) * 2**12
        if self._recipe.is_cold:
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        while left > 0:
            got = len(os.pread(self._file, min(left, 2**20), at))
            left, at = left - max(got, 1), 0 if got == 0 else at + got

    def _touch(self) -> None:
        """Go through a two-hundredth of what is held, the next part each time."""
        step = len(self._held) // 200 + 1
        begin = (self._made * step) % len(self._held)
        for each in self._held[begin : begin + step]:
            _ = each


def burn(seconds: float) -> None:
    """Compute for so many CPU seconds of this thread, whoever else wants the core."""
    until_s = time.thread_time() + seconds
    while time.thread_time() < until_s:
        sum(range(50))


class Samples(Dataset[Any]):
    """A map-style data set."""

    def __init__(self, recipe: Recipe) -> None:
        self._cost, self._length = Cost(recipe), recipe.length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Any:
        """Make one sample."""
        return self._cost.make(number)


class Stream(IterableDataset[Any]):
    """An iterable data set; of every hundred samples the first few are given by every worker."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe, self._cost = recipe, Cost(recipe)

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        own, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for number in range(self._recipe.length):
            if number % workers == own or number % 100 < 100 * self._recipe.repeat_ratio:
                yield self._cost.make(number)


def collate(samples: list[tuple[Tensor, list[Any]]]) -> tuple[Tensor, list[Any]]:
    """Stack the images and leave the boxes as they are, as detectors' loaders do."""
    return torch.stack([content for content, _ in samples]), [boxes for _, boxes in samples]


class InitWorker:
    """worker_init_fn: sets threads and affinity as the recipe says."""

    def __init__(self, recipe: Recipe) -> None:
        self._threads, self._is_pinned = recipe.threads, recipe.is_pinned

    def __call__(self, worker: int) -> None:
        """Initialise a worker."""
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        if self._is_pinned:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def build(recipe: Recipe) -> DataLoader[Any]:
    """Return the loader of a recipe."""
    more: dict[str, Any] = {}
    if recipe.num_workers:
        # By name, since Python 3.14 would not fork of itself: the start method is a fault of its own here.
        more = {"multiprocessing_context": "spawn" if recipe.is_spawned else "fork"}
        more |= {"prefetch_factor": recipe.prefetch_factor, "persistent_workers": recipe.is_persistent}
    is_told = recipe.threads is not None or recipe.is_pinned
    return DataLoader(
        Stream(recipe) if recipe.is_iterable else Samples(recipe),
        batch_size=recipe.batch_size,
        num_workers=recipe.num_workers,
        shuffle=None if recipe.is_iterable else True,
        collate_fn=collate if recipe.boxes else None,
        worker_init_fn=InitWorker(recipe) if is_told else None,
        **more,
    )


def write_file() -> None:
    """Write what cold reads go through, once."""
    if not FILE.exists() or FILE.stat().st_size != FILE_BYTES:
        with FILE.open("wb") as file:
            for _ in range(FILE_BYTES >> 20):
                file.write(os.urandom(1 << 20))
            file.flush()
            os.fsync(file.fileno())


def __getattr__(name: str) -> Callable[[], DataLoader[Tensor]]:
    """Return the factory of a named recipe."""
    recipe = parse_name(name)
    return lambda: build(recipe)
