"""How fast does a training script run that is not measured? The loop that everyone writes, and a mark after each step.

It shares data, device and step with `loop`, and nothing else: no stamps in the batches, no decomposition, no windows.
Set against `loop` by turns it shows what measuring costs.
"""

import time
from collections import deque
from typing import Any

from loadtune.errors import TargetError
from loadtune.measure.accelerator import count_samples
from loadtune.measure.leg import Leg
from loadtune.measure.loop import BEAT_S, Tell, is_loader_warm, warm_device_up
from loadtune.records.messages import Phase, StepsDone


class _Steps:
    """Queues steps on a device and tells when they ended, as the device itself says: late, and without waiting."""

    def __init__(self, leg: Leg, tell: Tell) -> None:
        self._device = leg.accelerator
        self._batch_size = leg.spec.settings.batch_size
        self._tell = tell
        self._queued: deque[tuple[Any, int]] = deque()
        self._ended: list[tuple[float, int]] = []
        self._told_s = time.monotonic()

    def take(self, batch: Any) -> None:
        """Train on a batch."""
        device, ahead = self._device, self._device.run_ahead_steps
        if ahead is not None and len(self._queued) >= ahead:  # a device whose own queue sets no bound
            device.wait(self._queued[-ahead][0])
        device.step(device.upload(batch))
        self._queued.append((device.record(), count_samples(batch, self._batch_size)))
        while self._queued and device.is_reached(self._queued[0][0]):
            mark, samples = self._queued.popleft()
            self._ended.append((device.monotonic_s(mark), samples))
        if self._ended and time.monotonic() - self._told_s >= BEAT_S:
            ends, counts = zip(*self._ended, strict=True)
            self._tell(StepsDone(finished_s=ends, samples=counts))
            self._ended, self._told_s = [], time.monotonic()


def run_plain(leg: Leg, tell: Tell) -> None:
    """Train for ever; it is ended from outside.

    Raises:
        TargetError: The data set yields no batch.
    """
    warm_device_up(leg, tell)
    steps, spec, taken = _Steps(leg, tell), leg.spec, 0
    first_s: float | None = None
    is_warm = False
    while leg.loader is not None:
        taken_before = taken
        for batch in leg.loader:
            first_s = time.monotonic() if first_s is None else first_s
            steps.take(batch)
            taken += 1
            if not is_warm and is_loader_warm(spec.settings, taken, time.monotonic() - first_s, spec.measure):
                tell(Phase(name="running", at_s=time.monotonic()))
                is_warm = True
        if taken == taken_before:
            raise TargetError(
                "the data set yields no batch", "its samples must fill one batch: try a smaller batch size"
            )
