"""What /proc and the cgroup files say, on fake roots: both cgroup versions, and a process tree that changes."""

import os
from pathlib import Path

import pytest

from loadtune.monitor import procfs
from loadtune.monitor.cgroup import find_groups, read_throttling
from loadtune.monitor.host import (
    MachineReader,
    MachineReading,
    TreeReader,
    find_data_mount,
    find_file_system,
    read_foreign_cores,
    read_limits,
    read_machine_oom_kills,
)

GIB = 1 << 30
MEMINFO = "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:   12582912 kB\n"
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
SHM_MOUNT = "25 24 0:23 / /dev/shm rw - tmpfs shm rw,size=65536k"


class Root:
    """A fake root folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.write("proc/meminfo", MEMINFO)
        self.mounts("22 1 8:1 / / rw - ext4 /dev/sda rw")

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def mounts(self, *lines: str) -> None:
        self.write("proc/self/mountinfo", "\n".join(lines) + "\n")

    def groups(self, path: str, text: str = "") -> None:
        self.write("proc/self/cgroup", text or f"0::{path}\n")

    def v2(self, group: str, **files: str) -> None:
        for name, text in files.items():
            self.write(f"sys/fs/cgroup{group}/{name.replace('__', '.')}", text)


@pytest.fixture
def root(tmp_path):
    return Root(tmp_path)


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5})


def test_without_cgroups_the_machine_is_the_limit(root):
    """No quota, physical memory, and /dev/shm that is no mount."""
    limits = read_limits(root=root.folder)
    assert (limits.usable_cores, limits.affinity_cores, limits.quota_cores) == (4.0, 4, None)
    assert (limits.memory_limit_bytes, limits.memory_available_bytes) == (16 * GIB, 12 * GIB)
    assert (limits.shm_total_bytes, limits.memory_oom_group) == (None, False)


def test_the_tightest_v2_group_on_the_way_up_binds(root):
    """A quota of the parent, a memory limit of the grandparent, memory.oom.group of the group itself."""
    root.mounts(V2_MOUNT)
    root.groups("/a/b/c")
    root.v2("/a/b/c", cpu__max="max 100000\n", memory__max="max\n", memory__current="5\n", memory__oom__group="1\n")
    root.v2("/a/b", cpu__max="150000 100000\n", memory__max="max\n")
    root.v2(
        "/a",
        cpu__max="800000 100000\n",
        memory__max=f"{4 * GIB}\n",
        memory__current=f"{3 * GIB}\n",
        memory__stat=f"anon 5\ninactive_file {GIB}\nactive_file {GIB // 2}\nslab_reclaimable 0\n",
    )
    limits = read_limits(root=root.folder)
    assert (limits.quota_cores, limits.usable_cores) == (1.5, 1.5)
    assert limits.memory_limit_bytes == 4 * GIB
    assert limits.memory_available_bytes == 5 * GIB // 2
    assert limits.memory_oom_group


def test_memory_high_binds_like_a_limit(root):
    """Above it the kernel slows the group down."""
    root.mounts(V2_MOUNT)
    root.groups("/a")
    root.v2("/a", memory__max=f"{8 * GIB}", memory__high=f"{2 * GIB}", memory__current=f"{3 * GIB}")
    limits = read_limits(root=root.folder)
    assert (limits.memory_limit_bytes, limits.memory_available_bytes) == (2 * GIB, 0)


def test_v1_groups_are_read_controller_by_controller(root):
    """Each controller has its own mount and path; -1 and the huge number are no limit."""
    root.mounts(
        "1 1 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
        "2 1 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
    )
    root.groups("", "5:memory:/job\n3:cpu,cpuacct:/job\n1:name=systemd:/\n")
    cpu, memory = "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/memory"
    root.write(f"{cpu}/cpu.cfs_quota_us", "-1\n")
    root.write(f"{cpu}/cpu.cfs_period_us", "100000\n")
    root.write(f"{cpu}/job/cpu.cfs_quota_us", "50000\n")
    root.write(f"{cpu}/job/cpu.cfs_period_us", "100000\n")
    root.write(f"{memory}/memory.limit_in_bytes", "9223372036854771712\n")
    root.write(f"{memory}/job/memory.limit_in_bytes", f"{2 * GIB}\n")
    root.write(f"{memory}/job/memory.usage_in_bytes", f"{GIB}\n")
    root.write(f"{memory}/job/memory.stat", f"cache 1\ntotal_inactive_file {GIB // 2}\ntotal_active_file 0\n")
    root.write(f"{memory}/job/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    limits = read_limits(root=root.folder)
    assert (limits.quota_cores, limits.memory_limit_bytes) == (0.5, 2 * GIB)
    assert limits.memory_available_bytes == 3 * GIB // 2
    assert find_groups(root.folder).read_oom_kills() == 3


def test_v1_limit_of_a_hidden_ancestor_is_found(root):
    """In a container only memory.stat tells the limits above what is mounted."""
    root.mounts("2 1 0:2 /docker/ab /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory")
    root.groups("", "5:memory:/docker/ab\n")
    memory = "sys/fs/cgroup/memory"
    root.write(f"{memory}/memory.limit_in_bytes", "9223372036854771712\n")
    root.write(f"{memory}/memory.stat", f"hierarchical_memory_limit {3 * GIB}\n")
    assert read_limits(root=root.folder).memory_limit_bytes == 3 * GIB


@pytest.mark.parametrize("path", ["/docker/ab", "/../../elsewhere", "/not/there"])
def test_a_group_that_cannot_be_seen_falls_back_to_the_mount(root, path):
    """A container's /proc/self/cgroup may name the host's path, or one outside of its namespace."""
    root.mounts(V2_MOUNT)
    root.groups(path)
    root.v2("", cpu__max="100000 100000\n")
    assert read_limits(root=root.folder).quota_cores == 1.0


def test_hybrid_layout_reads_both_versions(root):
    """Version 2 is mounted beside version 1 and holds no controller."""
    root.mounts(
        "1 1 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
        "2 1 0:2 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
    )
    root.groups("", "1:cpu:/\n0::/user.slice\n")
    root.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "250000")
    root.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    root.write("sys/fs/cgroup/unified/user.slice/cgroup.procs", "")
    assert read_limits(root=root.folder).quota_cores == 2.5


def test_ranks_share_cores_and_memory(root):
    """What one rank may use; the mask stays what it is."""
    limits = read_limits(2, root=root.folder)
    assert (limits.usable_cores, limits.affinity_cores, limits.ranks_per_node) == (2.0, 4, 2)
    assert (limits.memory_limit_bytes, limits.memory_available_bytes) == (8 * GIB, 6 * GIB)
    with pytest.raises(ValueError, match="ranks_per_node"):
        read_limits(0, root=root.folder)


def test_shared_memory_counts_only_as_a_mount(root):
    """Else it is a folder of the root file system, and its size says nothing."""
    root.mounts(SHM_MOUNT)
    (root.folder / "dev/shm").mkdir(parents=True)
    assert read_limits(root=root.folder).shm_total_bytes > 0


@pytest.mark.parametrize(
    ("device", "features", "returns"),
    [
        ("0x0005", "0110010100", True),
        ("0x0005", "0110000100", False),
        ("0x0002", "0110010100", False),
        ("0x0005", "01", False),
        ("", "0110010100", False),
    ],
)
def test_a_balloon_that_reports_free_pages_returns_memory(root, device, features, returns):
    """Bit 5 of device 5; another device, a short or an empty file says no."""
    assert not read_limits(root=root.folder).returns_memory
    root.write("sys/bus/virtio/devices/virtio0/device", device)
    root.write("sys/bus/virtio/devices/virtio0/features", features)
    assert read_limits(root=root.folder).returns_memory is returns


def test_throttling_needs_both_counters(root):
    """A group without a quota has a cpu.stat without periods."""
    root.mounts(V2_MOUNT)
    root.groups("/")
    root.v2("", cpu__stat="usage_usec 5\n")
    (group,) = find_groups(root.folder).cpu
    assert read_throttling(group) is None


def test_file_system_is_that_of_the_longest_mount_point(root):
    """A prefix of the name is no parent, and octal escapes are blanks."""
    root.mounts(
        "1 0 0:1 / / rw - ext4 a rw",
        r"2 1 0:2 / /mnt/my\040data rw - nfs4 b rw",
        r"3 1 0:3 / /mnt/my\040data/fast rw - xfs c rw",
    )
    found = [find_file_system(f"/mnt/my data{tail}", root=root.folder) for tail in ("", "/x", "/fast/x", "base")]
    assert found == ["nfs4", "nfs4", "xfs", "ext4"]
    assert find_file_system("/x", root=root.folder / "nowhere") is None


def test_a_mount_whose_name_is_not_utf8_is_found(root):
    """By the same letters that Python gives the bytes of a path; its device and source come with it."""
    mounts = b"1 0 0:1 / / rw - ext4 a rw\n2 1 8:1 / /mnt/\xff rw - xfs /dev/sda1 rw\n"
    (root.folder / "proc/self/mountinfo").write_bytes(mounts)
    mount = find_data_mount(os.fsdecode(b"/mnt/\xff/x"), root=root.folder)
    assert (mount.file_system, mount.device, mount.source) == ("xfs", "8:1", "/dev/sda1")


def test_unknown_cpu_has_no_name():
    """ARM servers give no model name."""
    assert procfs.parse_cpu_model("processor\t: 0\nCPU part\t: 0xd0c\n") is None


def machine_files(root, busy_ticks, steal_ticks=0, periods=10, throttled=1):
    root.write(
        "proc/stat",
        f"cpu 1 1 1 1\ncpu0 {busy_ticks} 0 0 500 0 9 9 {steal_ticks} 0 0\ncpu9 7777 0 0 0 0 0 0 0 0 0\nintr 5\n",
    )
    root.v2("", cpu__max="50000 100000", cpu__stat=f"nr_periods {periods}\nnr_throttled {throttled}\n")


def test_machine_counts_our_cpus_and_the_quota(root):
    """Busy time without interrupts, steal apart, of the CPUs in the mask only."""
    root.mounts(V2_MOUNT, SHM_MOUNT)
    root.groups("/")
    (root.folder / "dev/shm").mkdir(parents=True)
    machine_files(root, 300, 20)
    root.write("proc/vmstat", "nr_free_pages 5\noom_kill 4\n")
    root.v2("", memory__events="low 0\noom 1\noom_kill 2\n")
    machine = MachineReader(root.folder, frozenset({0, 1}))
    reading = machine.read()
    assert (reading.busy_s, reading.steal_s) == (pytest.approx(300 * procfs.TICK_S), pytest.approx(20 * procfs.TICK_S))
    assert (reading.periods, reading.throttled_periods) == (10, 1)
    assert reading.shm_bytes is not None
    assert machine.read_oom_kills() == (4, 2)
    assert machine.reasons == {}
    machine.close()
    machine.close()


def test_what_the_machine_does_not_tell_has_a_reason(root):
    """An empty /proc: every field None, each explained."""
    machine = MachineReader(root.folder / "nowhere", frozenset({0}))
    assert machine.read() == MachineReading()
    assert set(machine.reasons) == {"busy_s", "steal_s", "shm_bytes", "periods"}
    assert machine.read_oom_kills() == (None, None)
    assert read_machine_oom_kills(root.folder) is None


class Tree:
    """A fake /proc. A process has 10 ms ticks of CPU, pages and bytes read; an ended one reads empty, as it fails."""

    def __init__(self, folder: Path):
        self.folder = folder

    def put(self, pid, parent, ticks, *, pages=1, chars=0, disk=0, reaped=0, pss_kib=None):
        folder = self.folder / str(pid)
        folder.mkdir(parents=True, exist_ok=True)
        head = f"{pid} (python (x) ) S {parent} 1 1 0 -1 0 0 0 0 0 {ticks - 1} 1 {reaped} 0 20 0 1 0 5 1000 {pages} 0\n"
        (folder / "stat").write_text(head)
        (folder / "io").write_text(f"rchar: {chars}\nwchar: 0\nread_bytes: {disk}\n")
        if pss_kib is not None:
            (folder / "smaps_rollup").write_text(f"5e00-7f00 ---p 00 00:00 0 [rollup]\nRss: 9 kB\nPss: {pss_kib} kB\n")

    def end(self, pid):
        """Empty the files that are held open, and take the folder away."""
        for file in (self.folder / str(pid)).iterdir():
            file.write_text("")
            file.unlink()
        (self.folder / str(pid)).rmdir()


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "proc")


@pytest.fixture
def scan_always(monkeypatch):
    monkeypatch.setattr("loadtune.monitor.tree.SCAN_PAUSE_MAX_S", 0.0)


@pytest.mark.usefixtures("scan_always")
def test_tree_is_split_into_main_and_descendants(tree):
    """Grandchildren are workers too, strangers are not; memory and bytes are sums."""
    tree.put(100, 1, 50, pages=3, chars=10)
    tree.put(103, 102, 7, chars=1, disk=4096)
    tree.put(102, 100, 20, pages=2)
    tree.put(200, 1, 999)
    reader = TreeReader(100, proc=tree.folder)
    reading = reader.read()
    assert (reading.main_cpu_s, reading.worker_cpu_s) == (pytest.approx(0.5), pytest.approx(0.27))
    assert (reading.memory_bytes, reading.process_count) == (6 * procfs.PAGE_BYTES, 3)
    assert (reading.read_chars, reading.read_bytes) == (11, 4096)
    reader.close()


@pytest.mark.usefixtures("scan_always")
def test_ended_workers_keep_what_they_used(tree):
    """CPU time never shrinks; bytes read by a reaped child are its parent's then, and count once."""
    tree.put(100, 1, 50)
    tree.put(101, 100, 30, chars=1000, disk=500)
    reader = TreeReader(100, proc=tree.folder)
    before = reader.read()
    tree.end(101)
    between = reader.read()
    tree.put(100, 1, 50, chars=1000, disk=500)
    tree.put(105, 100, 4)
    after = reader.read()
    assert [each.worker_cpu_s for each in (before, between, after)] == [
        pytest.approx(each) for each in (0.3, 0.3, 0.34)
    ]
    assert [each.read_chars for each in (before, between, after)] == [1000, 1000, 1000]
    assert [each.process_count for each in (before, between, after)] == [2, 1, 2]
    reader.close()


@pytest.mark.usefixtures("scan_always")
def test_what_short_lived_workers_used_is_the_kernel_s_word(tree):
    """Half of it came after the last reading, some of them were never seen, and nothing is counted twice."""
    tree.put(100, 1, 50)
    tree.put(101, 100, 30, reaped=7)
    reader = TreeReader(100, proc=tree.folder)
    before = reader.read()
    tree.end(101)
    tree.put(100, 1, 50, reaped=45)
    ended = reader.read()
    tree.put(100, 1, 50, reaped=95)
    unseen = reader.read()
    tree.end(100)
    orphaned = reader.read()
    assert [each.worker_cpu_s for each in (before, ended, unseen, orphaned)] == [
        pytest.approx(each) for each in (0.37, 0.45, 0.95, 0.95)
    ]
    assert [each.main_cpu_s for each in (before, unseen, orphaned)] == [pytest.approx(0.5)] * 3
    reader.close()


@pytest.mark.usefixtures("scan_always")
def test_ended_root_keeps_its_figures(tree):
    """The last reading survives the trial; its orphans are still watched."""
    tree.put(100, 1, 50, chars=7)
    tree.put(101, 100, 30)
    reader = TreeReader(100, proc=tree.folder)
    reader.read()
    tree.end(100)
    reading = reader.read()
    assert (reading.main_cpu_s, reading.worker_cpu_s) == (pytest.approx(0.5), pytest.approx(0.3))
    assert (reading.read_chars, reading.process_count) == (7, 1)
    reader.close()


def test_new_workers_wait_for_the_next_scan(tree):
    """Looking for processes is paced by what it costs."""
    clock = [0.0]
    tree.put(100, 1, 50)
    reader = TreeReader(100, proc=tree.folder, clock=lambda: clock[0])
    reader.read()
    tree.put(101, 100, 5)
    assert reader.read().process_count == 1
    clock[0] += 2.1
    assert reader.read().process_count == 2
    reader.close()
    assert reader.read().process_count == 0


def test_own_children_are_seen_before_the_next_scan(tree):
    """Whoever waits for it would take what a worker used until then for the use of one moment."""
    clock = [0.0]
    tree.put(100, 1, 50)
    reader = TreeReader(100, proc=tree.folder, clock=lambda: clock[0])
    reader.read()
    tree.put(101, 100, 5)
    (tree.folder / "100" / "task" / "100").mkdir(parents=True)
    (tree.folder / "100" / "task" / "100" / "children").write_text("101 102 ")
    reading = reader.read()
    assert (reading.process_count, reading.worker_cpu_s) == (2, pytest.approx(0.05))
    reader.close()


def test_missing_root_reads_zero(tree):
    """A trial that died before it was watched."""
    tree.folder.mkdir()
    reading = TreeReader(100, proc=tree.folder).read()
    assert (reading.main_cpu_s, reading.worker_cpu_s, reading.memory_bytes, reading.process_count) == (0, 0, 0, 0)


def test_unreadable_io_is_none_with_a_reason(tree):
    """Kernels without task I/O accounting, and processes of other users."""
    tree.put(100, 1, 50)
    (tree.folder / "100/io").unlink()
    reader = TreeReader(100, proc=tree.folder)
    assert (reader.read().read_bytes, reader.read().read_chars) == (None, None)
    assert "No such file" in reader.io_reason
    reader.close()


def test_forbidden_io_is_none_with_a_reason(tree, monkeypatch):
    """The file opens, and reading it is refused."""
    tree.put(100, 1, 50)
    reader = TreeReader(100, proc=tree.folder)
    real = os.pread

    def refuse(file, size, offset):
        text = real(file, size, offset)
        if text.startswith(b"rchar"):
            raise PermissionError(13, "Permission denied")
        return text

    monkeypatch.setattr(os, "pread", refuse)
    assert reader.read().read_bytes is None
    assert reader.io_reason == "/proc/<pid>/io: Permission denied"
    reader.close()


def test_pss_counts_workers_that_no_scan_has_seen_yet(tree):
    """The kernel lists the main thread's children; where it does not, only those seen count."""
    tree.put(100, 1, 50, pss_kib=100)
    reader = TreeReader(100, proc=tree.folder)
    tree.put(101, 100, 5, pss_kib=20)
    assert (reader.read_pss_bytes(), reader.pss_processes) == (100 * 1024, 1)
    (tree.folder / "100/task/100").mkdir(parents=True)
    (tree.folder / "100/task/100/children").write_text("101 \n")
    assert (reader.read_pss_bytes(), reader.pss_processes) == (120 * 1024, 2)
    reader.close()


def test_pages_of_files_are_told_where_the_kernel_does(tree):
    """Not every kernel has Pss_File in smaps_rollup."""
    tree.put(100, 1, 50, pss_kib=100)
    reader = TreeReader(100, proc=tree.folder)
    assert (reader.read_pss_bytes(), reader.pss_file_bytes) == (100 * 1024, None)
    rollup = tree.folder / "100/smaps_rollup"
    rollup.write_text(f"{rollup.read_text()}Pss_File: 30 kB\n")
    assert (reader.read_pss_bytes(), reader.pss_file_bytes) == (100 * 1024, 30 * 1024)
    reader.close()


@pytest.mark.usefixtures("scan_always")
def test_pss_is_summed_over_the_living(tree):
    """A worker that ends in between is left out; none at all is None with a reason."""
    tree.put(100, 1, 50, pss_kib=100)
    tree.put(101, 100, 5, pss_kib=20)
    tree.put(102, 100, 5)
    reader = TreeReader(100, proc=tree.folder)
    reader.read()
    assert reader.read_pss_bytes() == 120 * 1024
    for pid in (100, 101):
        (tree.folder / str(pid) / "smaps_rollup").unlink()
    assert reader.read_pss_bytes() is None
    assert reader.pss_reason == "no process of the tree could be read"
    (tree.folder / "100/smaps_rollup").mkdir()
    assert reader.read_pss_bytes() is None
    assert "smaps_rollup" in reader.pss_reason
    reader.close()


def test_foreign_cores_leave_the_own_tree_out(root, tree):
    """Three busy cores, one of them ours."""
    clock = [0.0]
    tree.put(100, 1, 10)
    machine_files(root, 100)
    machine, own = MachineReader(root.folder, frozenset({0})), TreeReader(100, proc=tree.folder)

    def sleep(seconds):
        clock[0] += seconds
        tree.put(100, 1, 60)
        machine_files(root, 250)

    found = read_foreign_cores(machine, own, 0.5, clock=lambda: clock[0], sleep=sleep)
    assert found == pytest.approx((1.5 - 0.5) / 0.5)
    machine.close()
    assert read_foreign_cores(machine, own, 0.5, clock=lambda: clock[0], sleep=sleep) is None
    own.close()


def test_a_quota_that_is_not_counted_has_a_reason(root):
    """A cgroup may set a quota and keep no count of its periods."""
    root.mounts(V2_MOUNT)
    root.groups("/")
    root.v2("", cpu__max="50000 100000")
    machine = MachineReader(root.folder, frozenset({0}))
    assert machine.read().periods is None
    assert machine.reasons["periods"] == "the cgroup does not count throttled periods"


def test_an_unreadable_machine_shows_no_foreign_cores(root, tree):
    """A /proc/stat of another form is not zero load."""
    root.write("proc/stat", "cpu0 a b c d\n")
    machine = MachineReader(root.folder, frozenset({0}))
    assert read_foreign_cores(machine, TreeReader(100, proc=tree.folder), 0.5, sleep=lambda seconds: None) is None
    machine.close()


@pytest.mark.usefixtures("scan_always")
def test_what_cannot_be_listed_or_parsed_is_left_out(tree):
    """Strangers that end while they are looked at, and a /proc that fails, harm nothing."""
    tree.put(100, 1, 50, chars=5)
    reader = TreeReader(100, proc=tree.folder)
    (tree.folder / "300").mkdir()
    assert reader.read().process_count == 1
    (tree.folder / "100/io").write_text("rchar: 9\n")
    moved = tree.folder.rename(tree.folder.with_name("moved"))
    reading = reader.read()
    assert (reading.process_count, reading.read_chars) == (1, 5)
    assert moved.is_dir()
    reader.close()
