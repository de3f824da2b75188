"""Recognising a data set: what is refused and how it is told, and trees made to lead the listing astray."""

import dataclasses
import errno
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadtune.dataset import tree as tree_module
from loadtune.dataset.detect import Listing, list_dataset
from loadtune.dataset.leftout import printable
from loadtune.dataset.tree import Tree
from loadtune.errors import AmbiguousLayoutError, DatasetError, LoadtuneError, UnrecognisedLayoutError, UsageError


def make(root: Path, *names: str | bytes) -> Path:
    """Write files of one byte below a folder."""
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


@pytest.fixture
def paired(tmp_path):
    """Two pairs."""
    return make(tmp_path / "set", "images/a.jpg", "images/b.jpg", "masks/a.png", "masks/b.png")


def names(listing: Listing) -> list[str]:
    return [Path(listing.index.pair(number)[0]).name for number in range(len(listing.index))]


def left_out(listing: Listing) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {record.reason: (record.count, record.examples) for record in listing.left_out}


def refusal(error: type[LoadtuneError], path: Path, **choice: str) -> tuple[str, str]:
    """What a person reads: two lines."""
    with pytest.raises(error) as caught:
        list_dataset(path, **choice)
    assert type(caught.value) is error
    assert str(caught.value).count("\n") == 1
    assert caught.value.what.isprintable()
    return caught.value.what, caught.value.hint


def test_listing_says_what_was_recognised(paired):
    """Layout, sentence, split, and bytes estimated from a few pairs."""
    listing = list_dataset(paired)
    assert (listing.layout, listing.described) == ("paired", "paired folders: images/ with masks/")
    assert (listing.split, listing.left_out, listing.total_bytes) == (None, (), 4)
    assert listing.index.pair(0) == (str(paired / "images/a.jpg"), str(paired / "masks/a.png"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        listing.split = "train"


def test_listing_pickles_by_its_shared_index(paired):
    """It crosses to a trial as a few hundred bytes."""
    listing = list_dataset(paired)
    other = pickle.loads(pickle.dumps(listing))  # noqa: S301 - written above
    assert (names(other), other.described) == (names(listing), listing.described)


def test_no_torch_is_imported():
    """The parent lists while the trial server loads torch; it must not load it too."""
    code = "import sys, loadtune.dataset.detect; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["index", "tree", "leftout", "matching", "lists", "candidate", "folders", "layouts"])
def test_each_module_can_be_imported_first(module):
    """No circle of imports waits for the wrong order."""
    code = f"import loadtune.dataset.{module}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_path_names_a_close_one(paired):
    """A slip of the finger is the usual cause."""
    assert refusal(DatasetError, paired.parent / "sett") == (
        f"{paired.parent}/sett does not exist",
        "did you mean set?",
    )
    assert refusal(DatasetError, Path("/nowhere/at/all"))[1] == "check the path"


def test_path_that_is_no_folder_is_refused(paired):
    """A file, a path through a file, a FIFO, a name the system refuses, a dangling link."""
    os.mkfifo(paired / "fifo")
    (paired / "dangling").symlink_to("nowhere")
    assert refusal(DatasetError, paired / "images/a.jpg")[0].endswith("a.jpg is a file, not a folder")
    assert refusal(DatasetError, paired / "fifo")[0].endswith("is neither a folder nor a file, not a folder")
    assert refusal(DatasetError, paired / "images/a.jpg/b")[0].endswith("does not exist")
    assert refusal(DatasetError, paired / "dangling")[0].endswith("does not exist")
    assert "cannot be listed: File name too long" in refusal(DatasetError, paired / ("x" * 300))[0]
    assert "cannot be listed" in refusal(DatasetError, Path("a\0b"))[0]


def test_unreadable_folder_is_refused(paired, monkeypatch):
    """The superuser can read all, so the refusal is played."""

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "cannot be listed: Permission denied" in refusal(DatasetError, paired)[0]


@pytest.mark.parametrize("content", [(), (".hidden.png", "__MACOSX/a.png")])
def test_empty_folder_is_refused(tmp_path, content):
    """What systems leave behind is nothing."""
    what, hint = refusal(DatasetError, make(tmp_path, *content))
    assert (what, hint) == (f"{tmp_path} is an empty folder", "give the folder that holds the images and masks")


def test_unknown_layout_says_what_was_looked_for_and_found(tmp_path):
    """With folder names, and files by extension."""
    make(tmp_path, *(f"{folder}/1.tif" for folder in "abcd"), *(f"{n}.tif" for n in range(12)), "x.csv", "LICENSE")
    what, hint = refusal(UnrecognisedLayoutError, tmp_path)
    assert "found 4 folders: a/, b/, c/ ... and 12 .tif files and 1 file without extension and 1 .csv file;" in what
    assert "looked for voc: JPEGImages/ with SegmentationClass/" in what
    assert "paired: an image folder with a mask folder" in what
    assert hint.endswith("--layout paired:IMAGES:MASKS")


def test_folders_can_be_named(tmp_path):
    """Any two folders of the tree, also in other languages."""
    make(tmp_path, "Fotos/a.jpg", "tief/Masken/a.png")
    listing = list_dataset(tmp_path, layout="paired:./Fotos/:tief/Masken")
    assert (names(listing), listing.described) == (["a.jpg"], "paired folders: Fotos/ with tief/Masken/")


@pytest.mark.parametrize(
    "layout", ["paired:images", "paired:images:nope", "paired:..:masks", "paired:a:b:c", "voc:x:y"]
)
def test_named_folders_that_cannot_be_are_refused(paired, layout):
    """Missing, outside, too few or too many, or of a layout that takes none."""
    assert layout.partition(":")[0] in refusal(UsageError, paired, layout=layout)[0]


def test_unknown_layout_name_says_which_exist(paired):
    """An option that cannot work."""
    assert refusal(UsageError, paired, layout="coc") == (
        "there is no layout 'coc'",
        "--layout takes one of: voc, cityscapes, ade20k, coco, huggingface, webdataset, samples, paired, imagefolder",
    )


def test_layout_asked_for_is_the_only_one_tried(paired):
    """Although another would fit."""
    what, _ = refusal(UnrecognisedLayoutError, paired, layout="voc")
    assert "looked for voc" in what
    assert "paired:" not in what


def test_unknown_split_says_which_exist(paired):
    """With splits, their names; without, what makes one."""
    assert refusal(DatasetError, paired, split="val") == (
        f"{paired} has no split 'val'",
        "leave --split out; a split is a folder (train/) or a list (train.txt, splits/train.txt)",
    )
    (paired / "val.txt").write_text("a")
    (paired / "test.txt").write_text("b")
    assert refusal(DatasetError, paired, split="train")[1] == "--split takes one of: test, val, all"
    assert names(list_dataset(paired, split="val")) == ["a.jpg"]


def test_no_pair_says_what_lies_there(tmp_path):
    """Labels as text are another task's."""
    make(tmp_path, "images/a.jpg", "images/b.jpg", "labels/a.txt")
    what, hint = refusal(DatasetError, tmp_path)
    assert what.endswith(
        "no image has a mask in paired folders: images/ with labels/: "
        "2 no mask (images/a.jpg), 1 not an image (labels/a.txt)"
    )
    assert "share a name" in hint


def test_equal_mask_folders_are_ambiguous(tmp_path):
    """The hint names the option for each, and the option works."""
    make(tmp_path, *(f"{folder}/{n}.png" for folder in ("images", "labels", "masks") for n in "ab"))
    what, hint = refusal(AmbiguousLayoutError, tmp_path)
    assert "can be read in 2 ways" in what
    assert "images/ with labels/, 2 pairs; paired folders: images/ with masks/, 2 pairs" in what
    assert hint == "give --layout paired:images:labels or --layout paired:images:masks"
    assert "masks" in list_dataset(tmp_path, layout="paired:images:masks").index.pair(0)[1]


def test_mask_folder_with_few_masks_is_no_rival(tmp_path):
    """A handful of examples beside the masks does not make the choice hard."""
    make(tmp_path, *(f"{folder}/{n}.png" for folder in ("images", "masks") for n in "abc"), "labels/a.png")
    assert "masks" in list_dataset(tmp_path).described


def test_sets_below_are_found_and_two_are_ambiguous(tmp_path):
    """One folder down, where archives unpack to; of two, the sub-folder has to be given."""
    make(tmp_path, "one/images/a.jpg", "one/masks/a.png")
    assert list_dataset(tmp_path).described == "paired folders: one/images/ with masks/"
    make(tmp_path, *(f"two/{kind}/{n}.png" for kind in ("images", "masks") for n in "abcdefgh"))
    assert refusal(AmbiguousLayoutError, tmp_path)[1] == "give the sub-folder one/ or the sub-folder two/"


def test_two_years_of_voc_are_ambiguous(tmp_path):
    """However different their sizes."""
    for year, stems in (("VOC2007", "a"), ("VOC2012", "abcdef")):
        make(tmp_path, *(f"VOCdevkit/{year}/JPEGImages/{n}.jpg" for n in stems))
        make(tmp_path, *(f"VOCdevkit/{year}/SegmentationClass/{n}.png" for n in stems))
    what, hint = refusal(AmbiguousLayoutError, tmp_path)
    assert "Pascal VOC 2007" in what
    assert hint == "give the sub-folder VOCdevkit/VOC2007/ or the sub-folder VOCdevkit/VOC2012/"


def test_two_layouts_are_ambiguous_by_name(tmp_path):
    """VOC's folders beside paired ones: the layout's name tells them apart."""
    make(tmp_path, "images/1.png", "masks/1.png", "VOC2012/JPEGImages/1.jpg", "VOC2012/SegmentationClass/1.png")
    assert refusal(AmbiguousLayoutError, tmp_path)[1] == "give --layout voc or --layout paired"
    assert list_dataset(tmp_path, layout="voc").layout == "voc"
    assert list_dataset(tmp_path, layout="paired").described == "paired folders: images/ with masks/"


def test_voc_folders_are_voc_and_not_paired(tmp_path):
    """Both layouts see the same images; the more specific is right."""
    make(tmp_path, "JPEGImages/1.jpg", "SegmentationClass/1.png")
    assert list_dataset(tmp_path).layout == "voc"
    assert list_dataset(tmp_path, layout="paired").layout == "paired"


def test_special_files_are_counted_and_not_opened(paired, monkeypatch):
    """A FIFO would wait for ever; the socket's name must be short to be bound."""
    os.mkfifo(paired / "images/c.jpg")
    monkeypatch.chdir(paired / "masks")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.png")
        listing = list_dataset(paired)
    assert names(listing) == ["a.jpg", "b.jpg"]
    assert left_out(listing) == {"not a regular file": (2, ("images/c.jpg", "masks/s.png"))}


def test_links_that_leave_the_folder_are_not_followed(paired):
    """To files, folders, devices, by absolute paths and by `..`."""
    outside = make(paired.parent / "set-of-others", "x.jpg")
    (paired / "images/c.jpg").symlink_to(outside / "x.jpg")
    (paired / "images/d.jpg").symlink_to("../../set-of-others/x.jpg")
    (paired / "images/more").symlink_to(outside)
    (paired / "images/up").symlink_to("../..")
    (paired / "images/z.jpg").symlink_to("/dev/zero")
    listing = list_dataset(paired)
    assert names(listing) == ["a.jpg", "b.jpg"]
    assert left_out(listing)["link that leaves the folder"][0] == 5


def test_image_folder_that_is_a_link_elsewhere_is_explained(tmp_path):
    """It is common, and refused; the message says why."""
    make(tmp_path, "elsewhere/a.jpg", "set/masks/a.png")
    (tmp_path / "set/images").symlink_to(tmp_path / "elsewhere")
    what, hint = refusal(UnrecognisedLayoutError, tmp_path / "set")
    assert "1 link that leaves the folder (images)" in what
    assert "not followed" in hint


def test_links_within_the_folder_are_followed(tmp_path):
    """Files and folders, relative and absolute, through another link, and the folder given may be a link itself."""
    root = make(tmp_path / "set", "all/a.jpg", "all/b.jpg", "store/masks/a.png", "store/masks/b.png", "images/note.jpg")
    (root / "images/a.jpg").symlink_to("../all/a.jpg")
    (root / "images/b.jpg").symlink_to(root / "all/b.jpg")
    (root / "images/note.jpg").unlink()
    (root / "images/note.jpg").symlink_to("b.jpg")
    (root / "masks").symlink_to("store/masks")
    (tmp_path / "link").symlink_to("set")
    listing = list_dataset(tmp_path / "link")
    assert names(listing) == ["a.jpg", "b.jpg"]
    assert left_out(listing) == {"no mask": (1, ("images/note.jpg",))}


def test_loops_end(paired):
    """Links to themselves, to each other, and to a folder above; the real folders are listed once."""
    (paired / "images/self").symlink_to("self")
    (paired / "images/c.jpg").symlink_to("d.jpg")
    (paired / "images/d.jpg").symlink_to("c.jpg")
    (paired / "images/again").symlink_to(".")
    (paired / "images/deeper").mkdir()
    (paired / "images/deeper/back").symlink_to("..")
    (paired / "images/gone.jpg").symlink_to("nowhere.jpg")
    listing = list_dataset(paired)
    assert names(listing) == ["a.jpg", "b.jpg"]
    assert left_out(listing) == {
        "link that leads nowhere": (4, ("images/c.jpg", "images/d.jpg", "images/gone.jpg")),
        "link to a folder listed already": (2, ("images/again", "images/deeper/back")),
    }


def test_link_to_the_root_does_not_list_masks_as_images(paired):
    """The tree as a whole, seen from within: each real folder is listed once."""
    (paired / "images/root").symlink_to("..")
    listing = list_dataset(paired)
    assert names(listing) == ["a.jpg", "b.jpg"]
    assert listing.left_out == ()


def test_folders_nested_too_deep_are_counted(paired, monkeypatch):
    """A limit, not a stack that overflows."""
    monkeypatch.setattr(tree_module, "DEPTH_LIMIT", 3)
    make(paired, "images/1/2/3/4/5/x.jpg")
    assert left_out(list_dataset(paired)) == {"folder nested too deep": (1, ("images/1/2/3/4",))}


def test_folder_that_cannot_be_read_is_counted(paired, monkeypatch):
    """One folder without permission must not end the listing; the superuser can read all, so it is played."""
    make(paired, "images/closed/x.jpg")
    scandir = os.scandir

    def refuse(path):
        if path.endswith(b"closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_dataset(paired)
    assert names(listing) == ["a.jpg", "b.jpg"]
    assert left_out(listing) == {"cannot be read: Permission denied": (1, ("images/closed",))}


def test_long_and_undecodable_names_are_listed_and_shown(tmp_path):
    """250 bytes, Latin-1, newlines: names like any other, and printable in messages."""
    stems = [b"n" * 246, b"caf\xe9", b"two\nlines", b"-rf *"]
    make(tmp_path, *(b"images/" + stem + b".png" for stem in stems), *(b"masks/" + stem + b".png" for stem in stems))
    make(tmp_path, b"images/\xff\n.png")
    listing = list_dataset(tmp_path)
    assert sorted(map(os.fsencode, names(listing))) == sorted(stem + b".png" for stem in stems)
    assert left_out(listing) == {"no mask": (1, ("images/\ufffd\ufffd.png",))}


@given(st.binary(min_size=1, max_size=300))
def test_any_name_is_printable_on_one_line(name):
    """It goes into JSON and to terminals."""
    shown = printable(name)
    assert shown.isprintable()
    assert len(shown) <= 120
    assert shown.encode()


@given(
    st.sets(st.sampled_from(["a", "b", "c_mask", "d.x"])), st.sets(st.sampled_from(["a", "b_mask", "c_mask", "d.x"]))
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_file_is_used_or_counted(tmp_path_factory, images, masks):
    """Nothing is lost in silence, and no file is used twice."""
    root = make(tmp_path_factory.mktemp("set"), "images/z.png", "masks/z.png")
    make(root, *(f"images/{stem}.png" for stem in images), *(f"masks/{stem}.png" for stem in masks))
    listing = list_dataset(root)
    used = [path for number in range(len(listing.index)) for path in listing.index.pair(number)]
    assert len(used) == len(set(used))
    assert len(used) + sum(record.count for record in listing.left_out) == len(images) + len(masks) + 2


def test_order_does_not_depend_on_the_file_system(paired, monkeypatch):
    """Directories list their names in any order."""
    make(paired, "images/a.gif", "masks/b.bmp", "masks/c.png", "images/d.png", "images/e.png", "images/f.txt")
    first = list_dataset(paired)
    scandir = os.scandir

    class Backwards:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    second = list_dataset(paired)
    pairs = [[listing.index.pair(number) for number in range(len(listing.index))] for listing in (first, second)]
    assert pairs[0] == pairs[1]
    assert first.left_out == second.left_out


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"masks/a.png", b"masks/a.png"),
        (b"/old/home/masks/a.png", b"masks/a.png"),
        (b"../../masks/./a.png", b"masks/a.png"),
        (b"/etc/passwd", None),
        (b"images/../masks/a.png", b"masks/a.png"),
        (b"a.png", None),
        (b"", None),
        (b"x/" * 5000 + b"masks/a.png", b"masks/a.png"),
    ],
)
def test_paths_of_another_machine_are_located_by_their_tail(paired, path, found):
    """And never outside the tree."""
    assert Tree(os.fsencode(paired)).locate(path) == found
