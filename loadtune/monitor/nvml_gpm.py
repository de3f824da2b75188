"""How busy are the GPU's units? GPU performance metrics (GPM), which Hopper and newer have.

Utilisation says for how long a kernel ran; these say how many multiprocessors it kept busy. Each is the mean between
two samples, so two are kept and taken by turns.
"""

import math
import time
from collections.abc import Callable
from typing import Any

from loadtune.monitor.gpu import GPM, GpmReadings
from loadtune.monitor.nvml_answer import NEVER, Device, ask

METRICS = {
    "sm_active_ratio": 2,
    "sm_occupancy_ratio": 3,
    "tensor_active_ratio": 5,
    "dram_active_ratio": 10,
}
"""NVML_GPM_METRIC_SM_UTIL, SM_OCCUPANCY, ANY_TENSOR_UTIL and DRAM_BW_UTIL of nvml.h, all in per cent."""

APART_MIN_S = 0.1
"""Samples closer than this give nonsense: nvml.h asks for more than 100 ms between them."""


class Gpm:
    """Reads the metrics of one device or MIG instance.

    Args:
        device: Whose.
        monotonic: Seconds.
    """

    def __init__(self, device: Device, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._device, self._api, self._monotonic = device, device.api, monotonic
        self._handle = device.handle
        self._instance: int | None = None
        self._samples: list[Any] = []
        self._taken_s: float | None = None
        self._find_instance()
        reason = self.find_reason()
        if reason is None:
            self._allocate()
        else:
            device.drop(GPM, reason)

    def find_reason(self) -> str | None:
        """Return why there are none; None: there are."""
        support = ask(self._api, "nvmlGpmQueryDeviceSupport", self._handle)
        if support.is_refused:
            return support.words
        return None if support.value.isSupportedDevice else "the driver says that this GPU has none"

    def read(self) -> GpmReadings | None:
        """Return the means since the last call; None at the first, and where not available."""
        if self._device.is_dropped(GPM):
            return None
        now_s = self._monotonic()
        if self._taken_s is not None and now_s - self._taken_s <= APART_MIN_S:
            return None
        earlier, later = self._samples
        answer = self._take(later)
        if answer.is_refused:
            if answer.code in NEVER:
                self._device.drop(GPM, answer.words)
            self._device.note_lost(answer)
            return None
        self._samples.reverse()
        is_first, self._taken_s = self._taken_s is None, now_s
        return None if is_first else self._compare(earlier, later)

    def close(self) -> None:
        """Free the samples."""
        while self._samples:
            ask(self._api, "nvmlGpmSampleFree", self._samples.pop())
        self._device.drop(GPM, "it is closed")

    def _find_instance(self) -> None:
        """Of a MIG instance, ask its GPU by the instance's number: it has no sampling of its own."""
        if not self._device.uuid.startswith("MIG-"):
            return
        gpu = ask(self._api, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", self._device.handle)
        number = ask(self._api, "nvmlDeviceGetGpuInstanceId", self._device.handle)
        if not gpu.is_refused and not number.is_refused:
            self._handle, self._instance = gpu.value, number.value

    def _allocate(self) -> None:
        for _ in range(2):
            sample = ask(self._api, "nvmlGpmSampleAlloc")
            if sample.is_refused:
                self._device.drop(GPM, sample.words)
                return
            self._samples.append(sample.value)

    def _take(self, sample: Any) -> Any:
        if self._instance is None:
            return ask(self._api, "nvmlGpmSampleGet", self._handle, sample)
        return ask(self._api, "nvmlGpmMigSampleGet", self._handle, self._instance, sample)

    def _compare(self, earlier: Any, later: Any) -> GpmReadings | None:
        question = self._api.c_nvmlGpmMetricsGet_t()
        question.version = self._api.NVML_GPM_METRICS_GET_VERSION
        question.numMetrics = len(METRICS)
        question.sample1, question.sample2 = earlier, later
        for place, number in enumerate(METRICS.values()):
            question.metrics[place].metricId = number
        answer = ask(self._api, "nvmlGpmMetricsGet", question)
        if answer.is_refused:
            return None
        found = {name: _ratio(answer.value.metrics[place]) for place, name in enumerate(METRICS)}
        return GpmReadings(**found) if any(ratio is not None for ratio in found.values()) else None


def _ratio(metric: Any) -> float | None:
    """Return a metric as a share. Each has a return code of its own, and some drivers give NaN or more than 100."""
    percent = float(metric.value)
    is_sound = metric.nvmlReturn == 0 and math.isfinite(percent) and 0 <= percent <= 100
    return percent / 100 if is_sound else None
