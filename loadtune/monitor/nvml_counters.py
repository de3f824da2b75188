"""Which counters does NVML keep as field values: for how long the clocks were held down, and bytes over PCIe?

Counters miss nothing between two readings, as polled throttle reasons do.
"""

from typing import Any

from loadtune.monitor.gpu import PCIE_BYTES, THROTTLED
from loadtune.monitor.nvml_answer import NEVER, Device, name_refusal

THROTTLE_FIELDS = {74: "power_cap", 75: "thermal", 76: "sync_boost", 77: "board_limit", 79: "reliability"}
"""NVML_FI_DEV_PERF_POLICY_POWER and its neighbours in nvml.h, nanoseconds each; a report holds the names.

Not the finer NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN and its kin: their numbers are 251 to 253 up to
driver 580 and 269 to 271 in the headers of CUDA 13, where a 580 driver has power smoothing. These never moved."""

PCIE_FIELDS = {197: "tx", 198: "rx"}
"""NVML_FI_DEV_PCIE_COUNT_TX_BYTES, from the GPU, and RX_BYTES, to it; since driver 555. What older drivers have,
`nvmlDeviceGetPcieThroughput`, blocks for 20 ms a direction and sees nothing else of a second: not worth that.

Seen on an H100 with driver 580: unsigned 32-bit numbers that begin anew every 4 GiB, and 1.08 times the bytes copied
to the device, since packets have heads; 0.09 times them in the other direction, answers."""

NS_PER_S = 1e9

UNSIGNED_INT = 1
"""nvmlValueType_t of 32-bit numbers."""

VALUE_OF_TYPE = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}
"""nvmlValueType_t to the member of nvmlValue_t that holds the number."""


class FieldCounters:
    """Reads the counters of one device; a field that is refused is not asked for again."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._wanted = {THROTTLED: dict(THROTTLE_FIELDS), PCIE_BYTES: dict(PCIE_FIELDS)}
        self._last: dict[int, int] = {}
        self._wraps: dict[int, int] = {}

    def read(self) -> tuple[dict[str, float] | None, dict[str, int] | None]:
        """Return seconds held down by cause, and bytes by direction ("rx", "tx"); None where not available."""
        numbers = self._read_fields()
        throttled = {name: numbers[field] / NS_PER_S for field, name in THROTTLE_FIELDS.items() if field in numbers}
        moved = {name: int(numbers[field]) for field, name in PCIE_FIELDS.items() if field in numbers}
        return throttled or None, moved if len(moved) == len(PCIE_FIELDS) else None

    def _read_fields(self) -> dict[int, float]:
        """Return field number to value of every field that answers."""
        kinds = [reading for reading in self._wanted if not self._device.is_dropped(reading)]
        fields = [field for reading in kinds for field in self._wanted[reading]]
        if not fields:
            return {}
        answer = self._device.ask(kinds[0], "nvmlDeviceGetFieldValues", fields)
        if answer.is_refused:
            if answer.code in NEVER:
                for reading in kinds:
                    self._device.drop(reading, answer.words)
            return {}
        rows = list(answer.value)[: len(fields)]
        for field, row in zip(fields, rows, strict=True):
            if row.nvmlReturn in NEVER:
                self._forget(field, name_refusal(row.nvmlReturn))
        return {field: self._count(field, row) for field, row in zip(fields, rows, strict=True) if row.nvmlReturn == 0}

    def _count(self, field: int, row: Any) -> float:
        """Return a counter, that of 32 bits carried on past its end.

        One that wraps more than once between two readings is read low by 4 GiB a time: above 4.3 GB/s at a reading a
        second.
        """
        number = _number(row)
        if row.valueType != UNSIGNED_INT:
            return number
        if number < self._last.get(field, 0):
            self._wraps[field] = self._wraps.get(field, 0) + 1
        self._last[field] = int(number)
        return number + (self._wraps.get(field, 0) << 32)

    def _forget(self, field: int, reason: str) -> None:
        """Do without a field, and without the reading where none of its fields is left."""
        for reading, fields in self._wanted.items():
            if fields.pop(field, None) is not None and not fields:
                self._device.drop(reading, reason)


def _number(row: Any) -> float:
    return float(getattr(row.value, VALUE_OF_TYPE.get(row.valueType, "ullVal")))
