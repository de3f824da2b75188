"""Which disk is below a mount? As the kernel names it: what a hypervisor or a controller hides, nobody can tell."""

from dataclasses import dataclass
from pathlib import Path

from loadtune.monitor.procfs import Mount

VIRTUAL_BUSES = ("/virtio", "/xen", "/vbd-", "/vmbus", "/VMBUS", "/nbd", "/rbd")
"""In the path of a device in /sys: a disk that a hypervisor or a server far away plays."""

VIRTUAL_MODELS = (
    "QEMU",
    "VBOX",
    "VMware",
    "Virtual",
    "Msft",
    "Amazon Elastic Block Store",
    "Google PersistentDisk",
    "PersistentDisk",
    "nvme_card-pd",
)
"""How models of such disks begin where the bus does not tell: SCSI and NVMe are played too."""

MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "hugetlbfs"})
"""Types whose files are in memory and nowhere else."""


@dataclass(frozen=True, slots=True)
class Disk:
    """One block device, whole: not a partition, and nothing that is stacked on others."""

    name: str
    """As in /dev: sda, nvme0n1, vda."""
    model: str | None
    """None: it names none, as virtio disks do not."""
    is_rotational: bool | None
    """Whether the kernel takes it for a spinning disk; a virtual disk's word for it is worth nothing. None: no word."""
    is_virtual: bool
    """Whether a hypervisor or a server plays it."""


def find_disks(mount: Mount, *, root: Path = Path("/")) -> tuple[Disk, ...]:
    """Return the disks below a mount, those of an array or a mapped volume one by one; empty where there are none.

    Args:
        mount: As /proc/self/mountinfo lists it.
        root: Where /sys hangs; another folder in tests.
    """
    folder = root / "sys/dev/block" / mount.device
    if not folder.is_dir() and mount.source.startswith("/dev/"):
        # Btrfs makes a device number up, and says what it was mounted from; /dev/mapper holds links to dm-0 and so on.
        folder = root / "sys/class/block" / (root / mount.source.lstrip("/")).resolve().name
    try:
        return tuple(_describe(leaf) for leaf in _find_leaves(folder.resolve(strict=True)))
    except (OSError, RuntimeError):
        return ()


def _find_leaves(folder: Path, depth: int = 4) -> list[Path]:
    """Return what a device is stacked on, or its whole disk where it is a partition, or itself."""
    slaves = sorted((folder / "slaves").iterdir()) if depth and (folder / "slaves").is_dir() else []
    if slaves:
        leaves = [leaf for slave in slaves for leaf in _find_leaves(slave.resolve(strict=True), depth - 1)]
        return list(dict.fromkeys(leaves))
    return [folder.parent if (folder / "partition").exists() else folder]


def _describe(folder: Path) -> Disk:
    model = _read(folder / "device/model")
    flag = _read(folder / "queue/rotational")
    is_virtual = any(bus in str(folder) for bus in VIRTUAL_BUSES) or (model or "").startswith(VIRTUAL_MODELS)
    return Disk(
        name=folder.name,
        model=model,
        is_rotational=None if flag not in {"0", "1"} else flag == "1",
        is_virtual=is_virtual,
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip() or None
    except OSError:
        return None
