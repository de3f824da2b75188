"""Which GPUs does CUDA show to a process, and in which order? CUDA_VISIBLE_DEVICES and the driver's list in, UUIDs out.

NVML sees every GPU, in the order of the PCI bus, and knows nothing of that variable. Pure: it reads no environment.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from loadtune.records.resources import GpuInfo

_NUMBER = re.compile(r"[+-]?\d+")

UNKNOWN_ORDER = "CUDA numbers GPUs of different models by their speed, unless CUDA_DEVICE_ORDER=PCI_BUS_ID is set"


@dataclass(frozen=True, slots=True)
class Visible:
    """What CUDA shows."""

    uuids: tuple[str, ...] = ()
    """By CUDA's index: "GPU-..." or "MIG-..."."""
    reason: str | None = None
    """Why the indices cannot be told; None: they can, and no UUID means that no GPU is shown."""


def find_visible(value: str | None, order: str | None, gpus: Sequence[GpuInfo]) -> Visible:
    """Return the GPUs that CUDA shows, by its index.

    The rules are those that `torch.cuda._parse_visible_devices` was checked by against driver 525: whole numbers as
    strtoul reads them, or unique beginnings of UUIDs, the kind of the first entry deciding; the first entry that names
    nothing ends the list; a repeated one empties it. Of MIG instances CUDA shows one.

    Args:
        value: CUDA_VISIBLE_DEVICES; None: it is not set.
        order: CUDA_DEVICE_ORDER; None: it is not set.
        gpus: All GPUs in the order of the PCI bus, each with its MIG instances.
    """
    if value is not None and value.startswith("MIG-"):
        return Visible(_find_instance(value.split(",")[0], gpus))
    if value is not None and value.startswith("GPU-"):
        return Visible(_take(_places_by_uuid(value, gpus), gpus))
    models = {gpu.name for gpu in gpus}
    if len(models) > 1 and order != "PCI_BUS_ID" and value != "":
        return Visible(reason=UNKNOWN_ORDER)
    if value is None:
        return Visible(_take(range(len(gpus)), gpus))
    return Visible(_take(_places_by_number(value, len(gpus)), gpus))


def mig_instance(value: str | None) -> str | None:
    """Return the MIG instance that CUDA_VISIBLE_DEVICES names first; None: it names none."""
    return value.split(",")[0] if value is not None and value.startswith("MIG-") else None


def _take(places: Sequence[int], gpus: Sequence[GpuInfo]) -> tuple[str, ...]:
    """Return the UUIDs at these places; of a divided GPU, that of its first instance, the only one that CUDA shows."""
    if len(set(places)) < len(places):
        return ()
    return tuple(gpus[place].mig_uuids[0] if gpus[place].mig_uuids else gpus[place].uuid for place in places)


def _places_by_number(value: str, count: int) -> list[int]:
    places = []
    for entry in value.split(","):
        found = _NUMBER.match(entry.strip())
        number = int(found.group()) if found else -1
        if not 0 <= number < count:
            break
        places.append(number)
    return places


def _places_by_uuid(value: str, gpus: Sequence[GpuInfo]) -> list[int]:
    places = []
    for entry in value.split(","):
        matching = [place for place, gpu in enumerate(gpus) if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
        if len(matching) != 1:
            break
        places.append(matching[0])
    return places


def _find_instance(entry: str, gpus: Sequence[GpuInfo]) -> tuple[str, ...]:
    """Return the instance that begins so; the older form MIG-GPU-<uuid>/<instance>/<part> is passed on as it is."""
    if entry.startswith("MIG-GPU-"):
        return (entry,)
    matching = [uuid for gpu in gpus for uuid in gpu.mig_uuids if uuid.startswith(entry)]
    return tuple(matching) if len(matching) == 1 else ()
