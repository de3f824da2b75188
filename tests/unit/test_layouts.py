"""Paired folders and Pascal VOC: which image goes with which mask, which split, and what is left out."""

import os
from pathlib import Path

import pytest

from loadtune.dataset import lists
from loadtune.dataset.detect import Listing, list_dataset
from loadtune.errors import DatasetError

VOC = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")


def make(root: Path, *names: str | bytes) -> Path:
    """Write empty files below a folder."""
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def link_to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def pairs(listing: Listing, root: Path) -> list[tuple[str, str]]:
    """The pairs relative to the root."""
    numbered = (listing.index.pair(number) for number in range(len(listing.index)))
    return [(os.path.relpath(image, root), os.path.relpath(mask, root)) for image, mask in numbered]


def left_out(listing: Listing) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {record.reason: (record.count, record.examples) for record in listing.left_out}


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "masks"),
        ("image", "label"),
        ("imgs", "annotations"),
        ("Img", "GT"),
        ("frames", "segmentation"),
        ("photos", "targets"),
        ("JPEGImages", "SegmentationClassAug"),
        ("train", "trainannot"),
        ("train", "train_masks"),
        ("train_images", "train-labels"),
        ("train", "masks"),
        ("x", "y"),
        ("x_train", "y_train"),
        ("images/train", "masks/train"),
        ("train/images", "train/masks"),
    ],
)
def test_usual_folder_names_are_recognised(tmp_path, images, masks):
    """At the top, below split folders in either nesting, or with the split in the name."""
    make(tmp_path, f"{images}/a.jpg", f"{masks}/a.png", f"{images}/b.jpg", f"{masks}/b.png")
    listing = list_dataset(tmp_path)
    assert pairs(listing, tmp_path) == [(f"{images}/{name}.jpg", f"{masks}/{name}.png") for name in "ab"]
    assert (listing.layout, listing.left_out) == ("paired", ())
    assert listing.described.startswith(f"paired folders: {images}/ with ")


@pytest.mark.parametrize(
    ("image", "mask", "note"),
    [
        ("a.jpg", "a.png", ""),
        ("a.JPG", "a.Png", ""),
        ("a.tif", "a_mask.tif", "suffix _mask"),
        ("a.jpeg", "a-mask.gif", "suffix -mask"),
        ("a.png", "a_GT.bmp", "suffix _GT"),
        ("0001TP_006690.png", "0001TP_006690_L.png", "suffix _L"),
        ("a_rgb.png", "a.png", "suffix _rgb"),
        ("a_sat.jpg", "a_mask.png", "suffixes _sat and _mask"),
        ("a_leftImg8bit.png", "a_gtFine_labelIds.png", "suffixes _leftImg8bit and _gtFine_labelIds"),
        ("img_07.jpg", "mask_07.png", "prefixes img_ and mask_"),
        ("a.b.c.jpg", "a.b.c_seg.png", "suffix _seg"),
        ("a_img.jpg", "a_img_label.png", "suffix _label"),
        ("a.jpg", "a.jpg.png", ""),
    ],
)
def test_names_match_by_stem_with_usual_affixes(tmp_path, image, mask, note):
    """Other extensions, either case, and what people add to one name or both."""
    listing = list_dataset(make(tmp_path, f"images/{image}", f"masks/{mask}"))
    assert pairs(listing, tmp_path) == [(f"images/{image}", f"masks/{mask}")]
    assert listing.described == f"paired folders: images/ with masks/{f' ({note})' if note else ''}"


def test_exact_stems_come_before_affixes(tmp_path):
    """An image called cat_label keeps its own mask, and cat its own."""
    make(tmp_path, *(f"{folder}/{stem}.png" for folder in ("images", "masks") for stem in ("cat", "cat_label", "a_L")))
    listing = list_dataset(tmp_path)
    assert pairs(listing, tmp_path) == [
        (f"images/{stem}.png", f"masks/{stem}.png") for stem in ("a_L", "cat", "cat_label")
    ]


def test_folders_below_match_by_their_path(tmp_path):
    """The same name in two cities is two samples."""
    make(tmp_path, "images/ulm/1.jpg", "masks/ulm/1.png", "images/bonn/1.jpg", "masks/bonn/1.png", "masks/jena/1.png")
    listing = list_dataset(tmp_path)
    assert pairs(listing, tmp_path) == [
        ("images/bonn/1.jpg", "masks/bonn/1.png"),
        ("images/ulm/1.jpg", "masks/ulm/1.png"),
    ]
    assert left_out(listing) == {"no image": (1, ("masks/jena/1.png",))}


@pytest.mark.parametrize("folder", ["", "all/", "all/deep/"])
def test_one_folder_with_suffixed_masks_is_a_layout(tmp_path, folder):
    """Also below the top, as in sets with a folder a patient."""
    make(tmp_path, f"{folder}a.tif", f"{folder}a_mask.tif", f"{folder}b.tif", f"{folder}b_mask.tif", f"{folder}c.tif")
    listing = list_dataset(tmp_path)
    assert pairs(listing, tmp_path) == [(f"{folder}{n}.tif", f"{folder}{n}_mask.tif") for n in "ab"]
    assert "images and masks together (suffix _mask)" in listing.described
    assert left_out(listing) == {"no mask": (1, (f"{folder}c.tif",))}


def test_one_folder_a_split_with_suffixed_masks(tmp_path):
    """train/ and val/ each hold both; the others of a split are not counted against it."""
    make(tmp_path, "train/1_sat.jpg", "train/1_mask.png", "val/2_sat.jpg", "val/2_mask.png", "val/3_sat.jpg")
    listing = list_dataset(tmp_path)
    assert (pairs(listing, tmp_path), listing.split) == ([("train/1_sat.jpg", "train/1_mask.png")], "train")
    assert listing.left_out == ()


def test_images_beside_their_mask_folder(tmp_path):
    """Images at the top, masks in a folder."""
    listing = list_dataset(make(tmp_path, "a.jpg", "b.jpg", "masks/a.png"))
    assert pairs(listing, tmp_path) == [("a.jpg", "masks/a.png")]
    assert left_out(listing) == {"no mask": (1, ("b.jpg",))}


@pytest.mark.parametrize("nesting", ["{kind}/{split}", "{split}/{kind}", "{split}_{kind}"])
def test_default_split_is_train_and_said(tmp_path, nesting):
    """Whatever the nesting; the other splits are named."""
    for split in ("train", "val"):
        for kind, extension in (("images", "jpg"), ("masks", "png")):
            make(tmp_path, f"{nesting.format(kind=kind, split=split)}/{split}1.{extension}")
    listing = list_dataset(tmp_path)
    assert (listing.split, len(listing.index)) == ("train", 1)
    assert listing.described.endswith("; split train (there are also val)")
    assert list_dataset(tmp_path, split="val").index.pair(0)[0].endswith("val1.jpg")
    everything = list_dataset(tmp_path, split="all")
    assert (everything.split, len(everything.index)) == (None, 2)


def test_without_a_train_split_all_is_used_and_said(tmp_path):
    """A data set that has only val and test is still a data set."""
    make(tmp_path, "images/val/1.jpg", "masks/val/1.png", "images/test/2.jpg", "masks/test/2.png")
    listing = list_dataset(tmp_path)
    assert (listing.split, len(listing.index)) == (None, 2)
    assert listing.described.endswith("; all splits: test, val")


def test_images_outside_the_split_folders_are_counted(tmp_path):
    """They belong to no split, and might be missed."""
    make(tmp_path, "images/train/1.jpg", "masks/train/1.png", "images/stray.jpg", "images/old/2.jpg")
    listing = list_dataset(tmp_path)
    assert left_out(listing) == {"outside the split folders": (2, ("images/old/", "images/stray.jpg"))}


def test_clutter_is_ignored_in_silence_and_the_rest_is_counted(tmp_path):
    """With a few examples, the first in byte order."""
    make(tmp_path, "images/.DS_Store", "images/._a.jpg", "images/Thumbs.db", "__MACOSX/images/a.jpg", ".git/x.png")
    make(tmp_path, "images/a.jpg", "masks/a.png", *(f"images/{n}.jpg" for n in "9876"), "masks/z.png")
    make(tmp_path, "images/notes.txt", "masks/palette", "masks/png")
    listing = list_dataset(tmp_path)
    assert left_out(listing) == {
        "no mask": (4, ("images/6.jpg", "images/7.jpg", "images/8.jpg")),
        "not an image": (3, ("images/notes.txt", "masks/palette", "masks/png")),
        "no image": (1, ("masks/z.png",)),
    }


def test_duplicate_stems_say_which_is_used(tmp_path):
    """The first image by name, and the mask whose labels survive its format; never the directory's order."""
    make(tmp_path, "images/a.jpg", "images/a.png", "images/b.JPG", "masks/a.jpg", "masks/a.png", "masks/b.png")
    listing = list_dataset(tmp_path)
    assert pairs(listing, tmp_path) == [("images/a.jpg", "masks/a.png"), ("images/b.JPG", "masks/b.png")]
    assert left_out(listing) == {
        "duplicate stem": (2, ("images/a.png (images/a.jpg is used)", "masks/a.jpg (masks/a.png is used)"))
    }


def test_duplicates_by_affix_say_which_is_used(tmp_path):
    """Of several masks of an image the best suffix counts; of two images with one mask, the first."""
    make(tmp_path, "images/a_img.jpg", "images/a_rgb.jpg", "masks/a_labelIds.png", "masks/a_labelTrainIds.png")
    listing = list_dataset(tmp_path)
    assert pairs(listing, tmp_path) == [("images/a_img.jpg", "masks/a_labelTrainIds.png")]
    assert left_out(listing)["duplicate stem"] == (
        2,
        ("images/a_rgb.jpg (images/a_img.jpg is used)", "masks/a_labelIds.png (masks/a_labelTrainIds.png is used)"),
    )


def test_order_is_that_of_the_image_paths(tmp_path):
    """Bytes of the whole path, though folders lie within folders and `-` sorts before `/`."""
    make(tmp_path, *(f"{k}/{n}.png" for k in ("images", "masks") for n in ("b", "a/z", "a-/y", "a", "Z", "c/0")))
    found = [image for image, _ in pairs(list_dataset(tmp_path), tmp_path)]
    assert found == sorted(found, key=os.fsencode)
    assert len(found) == 6


@pytest.fixture
def listed(tmp_path):
    """Four pairs and no list yet."""
    return make(tmp_path, *(f"{kind}/{n}.png" for kind in ("images", "masks") for n in ("a", "b", "c", "d e")))


@pytest.mark.parametrize("place", ["train.txt", "splits/train.txt", "ImageSets/train.txt", "train_list.txt"])
@pytest.mark.parametrize(
    "content",
    [
        b"a\nc\n",
        b"\xef\xbb\xbfa\r\nc\r\n",
        "a\nc\n".encode("utf-16"),
        b"a.png\n\n  c.png  \nc\n",
        b"images/a.png\n./images/c.png",
        b"/home/eve/old/images/a.png\n/mnt/x/c.png\n",
        b"C:\\data\\images\\a.png\r\nC:\\data\\images\\c.png\r\n",
        b"images/a.png masks/a.png\nimages/c.png masks/c.png\n",
        b"/old/images/a.png,/old/masks/a.png\n/old/images/c.png;/old/masks/c.png\n",
        b"a 1\nc -1\n",
        b"a_mask\nmasks/c.png\n",
    ],
)
def test_lists_name_stems_paths_or_both_files(listed, place, content):
    """Byte order marks, CRLF and folders of another machine are survived."""
    make(listed, place)
    (listed / place).write_bytes(content)
    listing = list_dataset(listed)
    assert [image for image, _ in pairs(listing, listed)] == ["images/a.png", "images/c.png"]
    assert (listing.split, listing.left_out) == ("train", ())
    assert f"(list {Path(place).name})" in listing.described


def test_listed_mask_counts_more_than_its_name(listed):
    """A line with two paths says which mask; names with blanks are names."""
    (listed / "train.txt").write_text("images/a.png masks/b.png\nold/images/d e.png ../masks/d e.png\nd e\n")
    assert pairs(list_dataset(listed), listed) == [
        ("images/a.png", "masks/b.png"),
        ("images/d e.png", "masks/d e.png"),
    ]


def test_listed_pairs_need_no_common_name(tmp_path):
    """With both paths in the list, the names need not match."""
    make(tmp_path, "images/1.jpg", "masks/x.png")
    (tmp_path / "train.txt").write_text("/srv/images/1.jpg /srv/masks/x.png")
    assert pairs(list_dataset(tmp_path), tmp_path) == [("images/1.jpg", "masks/x.png")]


def test_lines_that_name_nothing_are_counted(listed):
    """A missing file, a mask that is missing, an image without mask, a line without end."""
    make(listed, "images/lonely.png")
    long_line = "x/" * 9000
    (listed / "train.txt").write_text(f"a\nnope\nimages/b.png masks/nope.png\nlonely\n{long_line}\n../../etc/passwd")
    listing = list_dataset(listed)
    assert pairs(listing, listed) == [("images/a.png", "masks/a.png")]
    assert left_out(listing)["no mask"] == (1, ("lonely",))
    assert left_out(listing)["named in the split list, not found"][0] == 4


def test_stale_paths_choose_by_the_longest_tail(tmp_path):
    """The same stem in two folders is told apart by the folders; a bare stem fits both and is counted."""
    make(tmp_path, *(f"{kind}/{city}/1.png" for kind in ("images", "masks") for city in ("ulm", "bonn")))
    (tmp_path / "val.txt").write_text("/old/images/ulm/1.png\n1\n")
    listing = list_dataset(tmp_path, split="val")
    assert pairs(listing, tmp_path) == [("images/ulm/1.png", "masks/ulm/1.png")]
    assert left_out(listing) == {"named in the split list, fits several images": (1, ("1",))}


@pytest.mark.parametrize("content", [b"", b"nothing\nof this", b"\0\xff" * 100])
def test_default_list_that_matches_nothing_is_reported(listed, content):
    """All pairs are used instead; only a split that was named is fatal."""
    (listed / "train.txt").write_bytes(content)
    listing = list_dataset(listed)
    assert (len(listing.index), listing.split) == (4, None)
    assert left_out(listing) == {"split list that matches no image": (1, ("train.txt",))}
    with pytest.raises(DatasetError, match="names no pair that is there"):
        list_dataset(listed, split="train")


def test_list_beyond_the_limit_is_not_read(listed, monkeypatch):
    """A wrong file must not fill the memory."""
    (listed / "train.txt").write_text("a\n")
    monkeypatch.setattr(lists, "LIST_LIMIT_BYTES", 1)
    assert (len(list_dataset(listed).index), list_dataset(listed).split) == (4, None)


@pytest.mark.parametrize("swap", [os.mkfifo, link_to_zero, os.mkdir, None])
def test_list_that_is_no_file_is_not_waited_for(listed, monkeypatch, swap):
    """Even if it turns into a FIFO, a device, a folder or nothing after it was seen."""
    path = listed / "train.txt"
    path.write_text("a\n")
    read_lines = lists.read_lines

    def read_after_swap(*arguments):
        path.unlink()
        if swap is not None:
            swap(path)
        return read_lines(*arguments)

    monkeypatch.setattr("loadtune.dataset.folders.read_lines", read_after_swap)
    assert len(list_dataset(listed).index) == 4


def test_folders_count_before_a_list_of_the_same_split(tmp_path):
    """A list that came with the folders says the same at best."""
    make(tmp_path, "images/train/1.jpg", "masks/train/1.png", "images/train/2.jpg", "masks/train/2.png")
    (tmp_path / "train.txt").write_text("1\n")
    assert len(list_dataset(tmp_path).index) == 2


def voc(root: Path, stems: str = "abcd", **splits: str) -> Path:
    """A VOC tree whose masks are for all but the last stem."""
    make(root, *(f"JPEGImages/{stem}.jpg" for stem in stems))
    make(root, *(f"{kind}/{stem}.png" for kind in ("SegmentationClass", "SegmentationObject") for stem in stems[:-1]))
    make(root, *(f"ImageSets/{task}/{split}.txt" for task in ("Segmentation", "Main") for split in splits))
    for split, content in splits.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(content)
    return root


@pytest.mark.parametrize("place", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_is_found_where_it_is_unpacked(tmp_path, place):
    """Here, in VOC2012/, or in VOCdevkit/VOC2012/; objects are not classes."""
    root = voc(tmp_path / place, train="a\nb\n", val="c\n")
    listing = list_dataset(tmp_path)
    assert pairs(listing, root) == [(f"JPEGImages/{n}.jpg", f"SegmentationClass/{n}.png") for n in "ab"]
    assert (listing.layout, listing.split, listing.left_out) == ("voc", "train", ())
    year = "Pascal VOC 2012: " if place else "Pascal VOC: "
    assert listing.described.startswith(year + f"{place}/JPEGImages/ with SegmentationClass/".lstrip("/"))


def test_voc_year_is_told_from_the_folder_given(tmp_path):
    """The folder itself is named VOC2007."""
    listing = list_dataset(voc(tmp_path / "VOC2007", train="a", val="b"))
    assert listing.described == (
        "Pascal VOC 2007: JPEGImages/ with SegmentationClass/ (list train.txt); split train (there are also val)"
    )


def test_voc_image_without_mask_counts_only_if_listed(tmp_path):
    """Most of VOC's photographs have no mask, which is no fault."""
    voc(tmp_path, train="a\nd\n", val="a\nb\n")
    assert left_out(list_dataset(tmp_path)) == {"no mask": (1, ("d",))}
    assert left_out(list_dataset(tmp_path, split="val")) == {}


def test_voc_without_lists_uses_every_mask(tmp_path):
    """Someone's own data in VOC's folders."""
    listing = list_dataset(voc(tmp_path))
    assert (len(listing.index), listing.split) == (3, None)
    assert left_out(listing) == {"no mask": (1, ("JPEGImages/d.jpg",))}
