"""Which disk is below a mount, on fake /sys trees: a disk, a partition, a mapped volume, an array, a virtual disk."""

from pathlib import Path

import pytest

from loadtune.monitor.procfs import Mount
from loadtune.monitor.storage import Disk, find_disks


def mount(device: str = "8:1", source: str = "/dev/sda1", kind: str = "ext4") -> Mount:
    return Mount("/", "/data", kind, frozenset(), device, source)


class Sys:
    """A fake /sys."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def disk(self, path: str, *, rotational: str | None = "0", model: str | None = None, device: str = "") -> Path:
        """Make a block device below /sys/devices."""
        folder = self.root / "sys/devices" / path
        (folder / "queue").mkdir(parents=True)
        if rotational is not None:
            (folder / "queue/rotational").write_text(f"{rotational}\n")
        if model is not None:
            (folder / "device").mkdir()
            (folder / "device/model").write_text(f"{model}   \n")
        self.number(folder, device)
        return folder

    def partition(self, disk: Path, name: str, device: str) -> Path:
        folder = disk / name
        folder.mkdir()
        (folder / "partition").write_text("1\n")
        self.number(folder, device)
        return folder

    def number(self, folder: Path, device: str) -> None:
        for kind, name in (("dev/block", device), ("class/block", folder.name)):
            if name:
                link = self.root / "sys" / kind / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(folder)

    def stack(self, upper: Path, *lower: Path) -> None:
        (upper / "slaves").mkdir()
        for each in lower:
            (upper / "slaves" / each.name).symlink_to(each)


@pytest.fixture
def sys(tmp_path: Path) -> Sys:
    return Sys(tmp_path)


def test_a_partition_is_told_as_its_whole_disk(sys: Sys) -> None:
    """Whose queue says whether it spins."""
    disk = sys.disk("pci0000:00/ata1/block/sda", rotational="1", model="WDC WD40")
    sys.partition(disk, "sda1", "8:1")
    assert find_disks(mount(), root=sys.root) == (Disk("sda", "WDC WD40", is_rotational=True, is_virtual=False),)


def test_an_array_on_two_disks_is_told_as_both(sys: Sys) -> None:
    """A mapped volume on an array of partitions."""
    disks = [sys.disk(f"pci0000:00/ata{number}/block/sd{number}") for number in (1, 2)]
    parts = [sys.partition(disk, f"{disk.name}p1", f"8:{number}7") for number, disk in enumerate(disks)]
    array = sys.disk("virtual/block/md0", device="9:0")
    sys.stack(array, *parts)
    volume = sys.disk("virtual/block/dm-0", device="253:0")
    sys.stack(volume, array)
    found = find_disks(mount("253:0", "/dev/mapper/data"), root=sys.root)
    assert [disk.name for disk in found] == ["sd1", "sd2"]


def test_two_partitions_of_one_disk_are_one_disk(sys: Sys) -> None:
    """A volume over both of them."""
    disk = sys.disk("pci0000:00/ata1/block/sda")
    volume = sys.disk("virtual/block/dm-0", device="253:0")
    sys.stack(volume, sys.partition(disk, "sda1", "8:1"), sys.partition(disk, "sda2", "8:2"))
    assert [each.name for each in find_disks(mount("253:0"), root=sys.root)] == ["sda"]


@pytest.mark.parametrize(
    ("path", "model", "is_virtual"),
    [
        ("pci0000:00/0000:00:02.0/virtio1/block/vda", None, True),
        ("vbd-768/block/xvda", None, True),
        ("pci0000:00/ata1/host0/block/sda", "QEMU HARDDISK", True),
        ("pci0000:00/nvme/nvme0/nvme0n1", "Amazon Elastic Block Store", True),
        ("pci0000:00/nvme/nvme0/nvme0n1", "Amazon EC2 NVMe Instance Storage", False),
        ("pci0000:00/nvme/nvme0/nvme0n1", "Samsung SSD 990", False),
    ],
)
def test_virtual_disks_are_known_by_bus_or_model(sys: Sys, path: str, model: str | None, is_virtual: bool) -> None:
    """Whatever they say of spinning."""
    sys.disk(path, rotational="1", model=model, device="8:1")
    (disk,) = find_disks(mount(), root=sys.root)
    assert (disk.is_virtual, disk.model) == (is_virtual, model)


def test_a_made_up_number_is_looked_up_by_the_source(sys: Sys) -> None:
    """Btrfs has no device number of its own; /dev/mapper holds links."""
    sys.disk("pci0000:00/ata1/block/sda")
    assert [disk.name for disk in find_disks(mount("0:44", "/dev/sda", "btrfs"), root=sys.root)] == ["sda"]
    sys.disk("virtual/block/dm-3")
    (sys.root / "dev/mapper").mkdir(parents=True)
    (sys.root / "dev/mapper/pool").symlink_to("../dm-3")
    assert [disk.name for disk in find_disks(mount("0:44", "/dev/mapper/pool"), root=sys.root)] == ["dm-3"]


@pytest.mark.parametrize("rotational", [None, "", "maybe"])
def test_a_disk_that_does_not_say_is_unknown(sys: Sys, rotational: str | None) -> None:
    """Neither spinning nor solid."""
    sys.disk("pci0000:00/ata1/block/sda", rotational=rotational, device="8:1")
    assert find_disks(mount(), root=sys.root) == (Disk("sda", None, None, is_virtual=False),)


def test_no_sys_no_disk(tmp_path: Path) -> None:
    """Nor where the mount is of a server, or a link of /sys leads nowhere or in a circle."""
    assert find_disks(mount(), root=tmp_path) == ()
    assert find_disks(mount("0:52", "server:/export", "nfs4"), root=tmp_path) == ()
    (tmp_path / "sys/dev/block").mkdir(parents=True)
    (tmp_path / "sys/dev/block/8:1").symlink_to("8:1")
    assert find_disks(mount(), root=tmp_path) == ()


def test_devices_stacked_on_each_other_in_a_circle_end(sys: Sys) -> None:
    """The kernel makes none such; a fake /sys in a container may."""
    left, right = (sys.disk(f"virtual/block/dm-{number}", device=f"253:{number}") for number in (0, 1))
    sys.stack(left, right)
    sys.stack(right, left)
    assert len(find_disks(mount("253:0"), root=sys.root)) == 1
