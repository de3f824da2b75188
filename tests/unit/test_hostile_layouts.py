"""Trees as they come: something missing, doubled, renamed, linked in circles or broken, under every layout.

Whatever lies there, listing ends in samples that can be opened, or in one error that says what to do; no name is lost,
nothing outside the folder is listed, and nothing is waited for.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtune.dataset.detect import list_dataset
from loadtune.errors import DatasetError
from tests.layouts import MAKERS

TEXTS = {".txt", ".json", ".csv", ".xml"}


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def pictures(folder: Path) -> list[Path]:
    found = [path for path in files(folder) if path.suffix in {".jpg", ".png"}]
    return found or files(folder)


def drop_one(folder: Path) -> None:
    chosen = pictures(folder)
    chosen[len(chosen) // 2].unlink()


def double_one(folder: Path) -> None:
    path = pictures(folder)[0]
    path.with_suffix(".bmp").write_bytes(path.read_bytes())


def shout(folder: Path) -> None:
    for path in files(folder):
        if path.suffix in {".jpg", ".png"}:
            path.rename(path.with_name(path.stem + path.suffix.upper()))


def rename_in_bytes(folder: Path) -> None:
    path = pictures(folder)[0]
    path.rename(path.with_name("\udcff\udcfe" + path.name))


def rename_long(folder: Path) -> None:
    path = pictures(folder)[0]
    path.rename(path.with_name("n" * (250 - len(path.suffix)) + path.suffix))


def empty_one(folder: Path) -> None:
    pictures(folder)[-1].write_bytes(b"")


def empty_all_texts(folder: Path) -> None:
    for path in files(folder):
        if path.suffix in TEXTS:
            path.write_bytes(b"")


def byte_order_mark_and_crlf(folder: Path) -> None:
    for path in files(folder):
        if path.suffix == ".txt":
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))


def garble(folder: Path) -> None:
    rng = random.Random(0)
    for path in files(folder):
        if path.suffix in TEXTS or path.suffix not in {".jpg", ".png"}:
            path.write_bytes(rng.randbytes(200))


def link_in_circles(folder: Path) -> None:
    (folder / "again").symlink_to(folder)
    inner = pictures(folder)[0].parent
    (inner / "up").symlink_to(folder.parent)
    (inner / "self.jpg").symlink_to(inner / "self.jpg")


def add_a_pipe(folder: Path) -> None:
    os.mkfifo(pictures(folder)[0].parent / "pipe.jpg")
    os.mkfifo(folder / "classes.txt")


def lock_a_folder(folder: Path) -> None:
    (folder / "locked").mkdir()
    (folder / "locked").chmod(0)


MUTATIONS: dict[str, Callable[[Path], None]] = {
    "a partner is missing": drop_one,
    "an image is there twice": double_one,
    "suffixes in capitals": shout,
    "a name that is not UTF-8": rename_in_bytes,
    "a name of 250 bytes": rename_long,
    "an empty image": empty_one,
    "empty lists": empty_all_texts,
    "a byte order mark and CRLF": byte_order_mark_and_crlf,
    "broken lists": garble,
    "links in circles": link_in_circles,
    "a pipe": add_a_pipe,
    "a folder without rights": lock_a_folder,
}
HARMLESS = {"a byte order mark and CRLF", "links in circles", "a folder without rights", "suffixes in capitals"}
"""After these nothing may be missing."""
NAMED = {("cityscapes", "suffixes in capitals"), ("coco", "suffixes in capitals")}
"""Here the data set itself says what its files are called."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("made", MAKERS)
def test_listing_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str, mutation: str) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    make, layout, _ = MAKERS[made]
    folder = tmp_path / "set"
    make(folder)
    whole = list_dataset(folder)
    MUTATIONS[mutation](folder)
    listing, refused = None, None
    try:
        listing = list_dataset(folder)
    except DatasetError as error:
        refused = error
    if refused is not None or listing is None:
        assert mutation not in HARMLESS or (made, mutation) in NAMED, refused
        assert refused.what
        assert refused.hint
        assert "\n" not in refused.what
        return
    assert listing.sample_count > 0
    assert listing.described.isprintable()
    if mutation in HARMLESS:
        assert (listing.layout, listing.sample_count) == (layout, whole.sample_count)
    if listing.index is not None:
        root = os.fsencode(folder.resolve())
        for number in range(len(listing.index)):
            for path in listing.index.files(number):
                assert os.fsencode(path).startswith(root)
                assert Path(path).is_file()
