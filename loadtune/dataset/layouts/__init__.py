"""Which layouts are known? A further one is a file in this folder and a line in `LAYOUTS`."""

from loadtune.dataset.candidate import Candidate, Collected, Layout, Search
from loadtune.dataset.layouts.ade20k import Ade20k
from loadtune.dataset.layouts.cityscapes import Cityscapes
from loadtune.dataset.layouts.coco import Coco
from loadtune.dataset.layouts.huggingface import HuggingFace
from loadtune.dataset.layouts.imagefolder import ImageFolder
from loadtune.dataset.layouts.paired import PairedFolders
from loadtune.dataset.layouts.samples import SampleFolders
from loadtune.dataset.layouts.voc import PascalVoc
from loadtune.dataset.layouts.webdataset import WebDataset

__all__ = ["LAYOUTS", "Candidate", "Collected", "Layout", "Search"]

LAYOUTS: tuple[Layout, ...] = (
    PascalVoc(),
    Cityscapes(),
    Ade20k(),
    Coco(),
    HuggingFace(),
    WebDataset(),
    SampleFolders(),
    PairedFolders(),
    ImageFolder(),
)
"""The most specific first: of two that see the same images, the earlier is right."""
