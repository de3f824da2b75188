"""Which workloads does `tuning` search? Data sets by name and seed, made of torch and torchvision alone.

Trial processes import this module by name, and the rival's own environment by path, so it imports nothing of the
project. A factory is named as the world and its seed, `network_3`, and draws its parameters from them: thresholds are
set on some seeds and scored on others. What devices train on them, and behind which limits, is in `tuning_settings`.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from torchvision.io import decode_image, encode_jpeg, encode_png
from torchvision.transforms.v2.functional import resize

IMAGES = Path(__file__).resolve().parent.parent / "demo" / "nuclei" / "images"
LENGTH = 8192
"""Samples of an epoch: it does not end within a measurement."""
SHORT_LENGTH, SHORT_BATCH = 192, 16
"""Of the short epoch: twelve batches, as of a small data set."""
SHARDS, SHARD_LENGTH = 12, 32
"""An epoch over all shards takes a fraction of a second, so that a slice of a duel holds several of them: what sharding
costs shows at an epoch's end."""
MIB = 2**20


class Costly(Dataset[Any]):
    """Samples that wait, compute, hold memory and weigh as much as they are told to.

    Args:
        wait_s: Seconds of waiting a sample; one in twenty takes `tail` times as long.
        burn_s: Seconds of computing a sample.
        tail: See wait_s.
        sample_bytes: Size of a sample.
        parts: Tensors that it consists of.
        held_bytes: Memory that each worker takes for itself, as a cache or a decoded index would.
    """

    def __init__(
        self,
        *,
        wait_s: float = 0.0,
        burn_s: float = 0.0,
        tail: float = 1.0,
        sample_bytes: int = 4096,
        parts: int = 1,
        held_bytes: int = 0,
    ) -> None:
        self._wait_s, self._burn_s, self._tail = wait_s, burn_s, tail
        self._sample_bytes, self._parts, self._held_bytes = sample_bytes, parts, held_bytes
        self._held: bytearray | None = None

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, number: int) -> Any:
        """Cost what a sample costs."""
        if self._held is None and self._held_bytes and get_worker_info() is not None:
            self._held = bytearray(self._held_bytes)
        if self._wait_s:
            is_slow = Random(number).random() < 0.05
            time.sleep(self._wait_s * (self._tail if is_slow else 1.0))
        if self._burn_s:
            burn(self._burn_s)
        size = max(1, self._sample_bytes // self._parts)
        made = [torch.zeros(size, dtype=torch.uint8) for _ in range(self._parts)]
        return made[0] if self._parts == 1 else made


def burn(seconds: float) -> None:
    """Compute for so many CPU seconds of this thread, whoever else wants the core."""
    until_s = time.thread_time() + seconds
    while time.thread_time() < until_s:
        sum(range(200))


class Decoded(Dataset[Tensor]):
    """Photographs decoded and resized: the demo's images tiled to `side_px` and kept as JPEG in memory.

    Args:
        side_px: Of a stored photograph.
        wait_s: Seconds that reading one waits, as from a file server.
    """

    def __init__(self, side_px: int, wait_s: float = 0.0) -> None:
        self._wait_s = wait_s
        self._stored = []
        for path in sorted(IMAGES.iterdir())[:8]:
            image = decode_image(str(path), mode="RGB")
            tiled = image.repeat(1, -(-side_px // image.shape[1]), -(-side_px // image.shape[2]))
            self._stored.append(encode_jpeg(tiled[:, :side_px, :side_px].contiguous(), quality=90))

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, number: int) -> Tensor:
        """Return one image, (3, 160, 160) of uint8."""
        if self._wait_s:
            time.sleep(self._wait_s)
        image = decode_image(self._stored[number % len(self._stored)], mode="RGB")
        return resize(image, [160, 160], antialias=True)


class PngPairs(Dataset[Any]):
    """Small images with their masks, both PNG in memory: much opening and little decoding.

    Args:
        side_px: Of both.
    """

    def __init__(self, side_px: int) -> None:
        self._stored = []
        for path in sorted(IMAGES.iterdir())[:8]:
            image = resize(decode_image(str(path), mode="RGB"), [side_px, side_px], antialias=True)
            self._stored.append((encode_png(image), encode_png((image[:1] > 128).to(torch.uint8))))

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return an image, (3, side, side) of uint8, and its mask, (1, side, side)."""
        image, mask = self._stored[number % len(self._stored)]
        return decode_image(image, mode="RGB"), decode_image(mask)


class Sharded(IterableDataset[Tensor]):
    """Shards that are split among workers, whole ones only: a rate that rises where they divide anew.

    Args:
        shards: How many; an epoch goes through each once.
        wait_s: Seconds a sample.
    """

    def __init__(self, shards: int, wait_s: float) -> None:
        self._shards, self._wait_s = shards, wait_s

    def __iter__(self) -> Iterator[Tensor]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for _ in range(first, self._shards, step):
            for _ in range(SHARD_LENGTH):
                time.sleep(self._wait_s)
                yield torch.zeros(1024)


class Short(IterableDataset[Tensor]):
    """A short epoch, whole batches to a worker. A trial begins an iterable anew, so starting workers is in the rate.

    Args:
        wait_s: Seconds a sample.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s

    def __len__(self) -> int:
        return SHORT_LENGTH

    def __iter__(self) -> Iterator[Tensor]:
        info = get_worker_info()
        own, count = (0, 1) if info is None else (info.id, info.num_workers)
        for number in range(SHORT_LENGTH):
            if number // SHORT_BATCH % count == own:
                time.sleep(self._wait_s)
                yield torch.zeros(1024)


Draw = Callable[[str, float, float], float]
"""Draws a parameter by its name, between two bounds, always the same for a seed."""


def drawing(seed: int) -> Draw:
    """Return what draws the parameters of a seed."""
    return lambda name, low, high: low * (high / low) ** Random(f"{name} {seed}").random()


def small_shm_sample(draw: Draw) -> tuple[float, int]:
    """Return the seconds and bytes of a sample of `small_shm`, by which its device and its /dev/shm are made."""
    return draw("wait", 0.008, 0.016), int(draw("size", 0.25, 0.5) * MIB)


WORLDS: dict[str, Callable[[Draw], Any]] = {
    "network": lambda draw: Costly(wait_s=draw("wait", 0.008, 0.03)),
    "mixed": lambda draw: Costly(wait_s=draw("wait", 0.006, 0.016), burn_s=draw("burn", 0.001, 0.003)),
    "photographs": lambda draw: Decoded(int(draw("side", 700, 1400))),
    "served_photographs": lambda draw: Decoded(int(draw("side", 400, 700)), wait_s=draw("wait", 0.01, 0.03)),
    "png_pairs": lambda draw: PngPairs(int(draw("side", 96, 192))),
    "heavy_tail": lambda draw: Costly(wait_s=draw("wait", 0.002, 0.005), tail=draw("tail", 8, 14)),
    "device_bound": lambda draw: Costly(burn_s=draw("burn", 0.0002, 0.0006)),
    "held_memory": lambda draw: Costly(wait_s=draw("wait", 0.01, 0.02), held_bytes=int(draw("held", 350, 550) * MIB)),
    "small_shm": lambda draw: Costly(wait_s=small_shm_sample(draw)[0], sample_bytes=small_shm_sample(draw)[1]),
    "quota": lambda draw: Decoded(int(draw("side", 500, 900)), wait_s=draw("wait", 0.002, 0.006)),
    "main_process": lambda draw: Costly(parts=int(draw("parts", 40, 90)), sample_bytes=8192),
    "large_tensors": lambda draw: Costly(
        burn_s=draw("burn", 0.001, 0.002), sample_bytes=int(draw("size", 1.5, 4) * MIB)
    ),
    "short_epoch": lambda draw: Short(draw("wait", 0.004, 0.01)),
    "shards": lambda draw: Sharded(SHARDS, draw("wait", 0.003, 0.006)),
    "in_memory": lambda draw: Costly(sample_bytes=int(draw("size", 1e4, 5e4))),
    "network_both": lambda draw: Costly(wait_s=draw("wait", 0.003, 0.007)),
    "photographs_both": lambda draw: Decoded(int(draw("side", 600, 1000))),
    "in_memory_both": lambda draw: Costly(sample_bytes=int(draw("size", 1e4, 3e4))),
}
"""What each name means. The first seven are those on which doubling does fine."""


def __getattr__(name: str) -> Callable[[], Any]:
    """Return the factory `<world>_<seed>`.

    Raises:
        AttributeError: There is no such world.
    """
    world, _, seed = name.rpartition("_")
    if world not in WORLDS or not seed.isdigit():
        raise AttributeError(f"no world is called {name!r}")
    return lambda: WORLDS[world](drawing(int(seed)))
