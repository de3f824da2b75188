"""The buffer of pairs: what goes in comes out, garbage is refused, and reading leaves no trace in memory."""

import gc
import mmap
import os
import pickle
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.dataset import index as index_module
from loadtune.dataset.index import PairIndex

NAMES = st.binary(min_size=1, max_size=20).map(lambda name: name.replace(b"\0", b"_").replace(b"/", b"_"))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)


def write(pairs: list[tuple[bytes, bytes]], root: str = "/data") -> PairIndex:
    return PairIndex.write(root, pairs)


def read(index: PairIndex) -> list[tuple[bytes, bytes]]:
    pairs = (index.pair(number) for number in range(len(index)))
    return [(os.fsencode(image), os.fsencode(mask)) for image, mask in pairs]


def numbered(count: int) -> list[tuple[bytes, bytes]]:
    return [(b"images/sample_%07d.jpg" % n, b"masks/sample_%07d_mask.png" % n) for n in range(count)]


def private_bytes() -> int:
    """Memory that is this process's own. A page of a shared mapping counts as private while one process reads it."""
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Anonymous"))


@given(st.lists(st.tuples(PATHS, PATHS), max_size=30))
def test_any_paths_come_back_sorted_by_image(pairs):
    """Names of any bytes survive, whether or not the pairs share a rule."""
    with write(pairs) as index:
        assert [image for image, _ in read(index)] == sorted(b"/data/" + image for image, _ in pairs)
        assert sorted(read(index)) == sorted((b"/data/" + image, b"/data/" + mask) for image, mask in pairs)


@given(st.lists(NAMES, max_size=30), PATHS, PATHS, NAMES, NAMES)
def test_pairs_under_one_rule_come_back(stems, images, masks, image_tail, mask_tail):
    """A head and a tail in common, of any bytes, are taken off and put back."""
    pairs = [(images + b"/" + stem + image_tail, masks + b"/" + stem + mask_tail) for stem in stems]
    with write(pairs) as index:
        assert sorted(read(index)) == sorted((b"/data/" + image, b"/data/" + mask) for image, mask in pairs)


def test_name_that_is_not_utf8_is_a_path_that_opens(tmp_path):
    """The str carries the bytes by surrogates, as os.fsdecode makes them."""
    name = b"caf\xe9.png"
    (tmp_path / os.fsdecode(name)).write_bytes(b"here")
    with PairIndex.write(tmp_path, [(name, name)]) as index:
        assert Path(index.pair(0)[0]).read_bytes() == b"here"


def test_a_sample_costs_less_than_33_bytes():
    """Shared folders and suffixes are kept once."""
    with write(numbered(10_000)) as index:
        assert index.nbytes / len(index) < 33


def test_prefixes_are_shared_too():
    """`image_1.jpg` with `mask_1.png` is one rule, not one a pair."""
    with write([(b"i/image_%05d.jpg" % n, b"m/mask_%05d.png" % n) for n in range(1000)]) as index:
        assert index.nbytes / len(index) < 20
        assert index.pair(7) == ("/data/i/image_00007.jpg", "/data/m/mask_00007.png")


def test_unrelated_names_stay_within_the_rule_limit(monkeypatch):
    """Pairs beyond the limit carry both names instead of a rule."""
    monkeypatch.setattr(index_module, "RULE_LIMIT", 3)
    pairs = [(b"a%d" % n, b"a-%d" % n) for n in range(9)]
    with write(pairs) as index:
        assert read(index) == [(b"/data/" + image, b"/data/" + mask) for image, mask in pairs]


def test_empty_index_has_no_pair():
    """Nothing is no error here; who lists decides."""
    with write([]) as index:
        assert len(index) == 0
        with pytest.raises(IndexError):
            index.pair(0)


@pytest.mark.parametrize("number", [-1, 3, 2**70])
def test_number_out_of_range_is_refused(number):
    """Negative numbers too: a sampler that gives one is wrong."""
    with write(numbered(3)) as index, pytest.raises(IndexError, match="of 3"):
        index.pair(number)


def test_closed_index_says_so_and_closes_twice():
    """A mapping that is gone must not be read."""
    index = write(numbered(3))
    index.close()
    index.close()
    with pytest.raises(ValueError, match="released"):
        index.pair(0)


def test_shared_path_opens_the_same_pairs():
    """Any process of the user may open it; the path names this process."""
    with write(numbered(50)) as index:
        assert index.shared_path.startswith(f"/proc/{os.getpid()}/fd/")
        with PairIndex.open(index.shared_path) as other:
            assert (read(other), other.shared_path) == (read(index), index.shared_path)


def test_pickling_sends_the_path_alone():
    """A spawned worker gets a short message and maps the buffer itself, from a reader's copy too."""
    with write(numbered(5000)) as index, PairIndex.open(index.shared_path) as reader:
        message = pickle.dumps(reader)
        with pickle.loads(message) as other:  # noqa: S301 - written above
            assert len(message) < 200
            assert other.pair(4999) == index.pair(4999)


def test_path_of_a_closed_index_is_gone():
    """The buffer lives as long as its maker keeps it."""
    index = write(numbered(3))
    index.close()
    with pytest.raises(OSError, match=index.shared_path):
        PairIndex.open(index.shared_path)


def test_buffer_cannot_be_changed_by_anyone():
    """Sealed: shrinking it would kill its readers."""
    with write(numbered(3)) as index, Path(index.shared_path).open("r+b", buffering=0) as file:
        with pytest.raises(PermissionError):
            file.write(b"x")
        with pytest.raises(PermissionError):
            file.truncate(10)


@pytest.mark.parametrize("missing", ["absent", "refused"])
def test_without_memfd_a_file_without_a_name_serves(monkeypatch, missing):
    """Old kernels and other libcs have no memfd."""

    def refuse(name, flags):
        raise OSError("not implemented")

    if missing == "absent":
        monkeypatch.delattr(os, "memfd_create")
    else:
        monkeypatch.setattr(os, "memfd_create", refuse)
    with write(numbered(20)) as index, PairIndex.open(index.shared_path) as other:
        assert read(other) == read(index)


def test_relative_root_is_refused():
    """Workers may have another working folder."""
    with pytest.raises(ValueError, match="absolute"):
        write([], root="data")


def test_nul_in_a_name_is_refused():
    """No file system has it, and it separates the fields of the buffer."""
    with pytest.raises(ValueError, match="NUL"):
        write([(b"a\0b", b"c")])


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(content):
    """Never a pair made of garbage."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with pytest.raises(ValueError, match="index"):
            PairIndex.open(file.name)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_damaged_header_or_table_is_refused_or_harmless(place, change):
    """A flipped byte ends in ValueError or in some name, never in another error."""
    with write(numbered(40)) as index:
        content = bytearray(Path(index.shared_path).read_bytes())
    content[place % len(content)] ^= change
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            with PairIndex.open(file.name) as other:
                assert len(read(other)) == 40
        except ValueError:
            pass


@pytest.mark.parametrize("cut", [0, 10, 47, 48, 60, -1])
def test_truncated_buffer_is_refused(tmp_path, cut):
    """A copy that was cut short must not end in SIGBUS."""
    with write(numbered(40)) as index:
        content = Path(index.shared_path).read_bytes()
    (tmp_path / "cut").write_bytes(content[:cut])
    with pytest.raises(ValueError, match=r"index|short"):
        PairIndex.open(str(tmp_path / "cut"))


def test_fifo_is_refused_without_waiting(tmp_path):
    """Opening a FIFO for reading would wait for a writer."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="no index"):
        PairIndex.open(str(tmp_path / "fifo"))


def test_mapping_is_read_only_and_shared():
    """Private writable pages would be copied by every worker."""
    with write(numbered(3)) as index:
        with pytest.raises(TypeError):
            index._mapping[0] = 1
        line = next(line for line in Path("/proc/self/maps").read_text().splitlines() if "loadtune-pairs" in line)
        assert line.split()[1] == "r--s"


def test_an_epoch_keeps_no_memory():
    """Not one object and hardly a page more after reading every pair, in a forked worker."""
    count = 200_000
    with write(numbered(count)) as index:
        answer = mmap.mmap(-1, 16)
        worker = os.fork()
        if worker == 0:
            for number in range(1000):
                index.pair(number)
            gc.disable()  # a collection writes to every object inherited, and so copies their pages
            blocks, memory = sys.getallocatedblocks(), private_bytes()
            for number in range(count):
                index.pair(number)
            grown = [sys.getallocatedblocks() - blocks, private_bytes() - memory]
            answer[:] = b"".join(value.to_bytes(8, "little", signed=True) for value in grown)
            os._exit(0)
        os.waitpid(worker, 0)
        blocks, memory = (int.from_bytes(answer[place : place + 8], "little", signed=True) for place in (0, 8))
        assert blocks < 100
        assert memory < 2**20 < index.nbytes
