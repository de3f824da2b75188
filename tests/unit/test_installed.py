"""How packages were built, from files made here; and that this installation can be read without importing it."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.monitor import installed
from loadtune.monitor.installed import (
    Build,
    ImageExtension,
    find_package,
    is_met,
    parse_build,
    read_build,
    read_image_extension,
    read_pillow,
    read_requirements,
)


@pytest.mark.parametrize(
    ("text", "build"),
    [
        ("__version__ = '2.14.1+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", ("13.0", "cu130")),
        ('__version__ = "2.11.0+cpu"\ncuda = None\n', (None, "cpu")),
        ("__version__ = '0.29.1'\nif check():\n    cuda = check()\n", (None, None)),
        ("__version__ = '2.14.1+rocm7.0'\ncuda = None\nhip: Optional[str] = '7.0.51831'\n", (None, "rocm7.0")),
    ],
)
def test_builds_are_read_from_version_files(text: str, build: tuple[str | None, str | None]) -> None:
    """PyTorch's own, and torchvision's, which has less."""
    found = parse_build(text)
    assert found is not None
    assert (found.cuda, found.label) == build


def test_a_file_without_a_version_is_no_build(tmp_path: Path) -> None:
    """Nor is a package that is not there, or has no such file."""
    assert parse_build("cuda = '13.0'") is None
    assert read_build(None) is None
    assert read_build(tmp_path) is None
    (tmp_path / "version.py").write_bytes(b"__version__ = '1.0'\n# \xff\n")
    assert read_build(tmp_path) == Build("1.0")


def test_this_installation_is_read_without_importing_torch() -> None:
    """In a process of its own: here, a test may have imported it."""
    script = (
        "import sys; from loadtune.monitor.installed import *; "
        "folder = find_package('torch'); print(read_build(folder).version, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    version, is_imported = run.stdout.split()
    assert version[0].isdigit()
    assert is_imported == "False"


def test_a_missing_package_has_no_folder() -> None:
    """Nor has a module that is a file, or a name that is none."""
    assert find_package("no_such_package_here") is None
    assert find_package("no_such.package") is None
    assert find_package("fileinput") is None


def test_the_image_extension_says_whether_it_knows_nvjpeg(tmp_path: Path) -> None:
    """By the library that it names; `image` alone is a folder of Python files in other packages."""
    assert read_image_extension(None) is None
    assert read_image_extension(tmp_path) is None
    (tmp_path / "image_stable.so").write_bytes(b"\x7fELF...libnvjpeg.so.13...")
    assert read_image_extension(tmp_path) == ImageExtension("image_stable.so", has_nvjpeg=True)
    (tmp_path / "image.so").write_bytes(b"\x7fELF...libjpeg.so.8...")
    assert read_image_extension(tmp_path) == ImageExtension("image.so", has_nvjpeg=False)
    (tmp_path / "image.so").unlink()
    (tmp_path / "image.so").mkdir()
    assert read_image_extension(tmp_path) == ImageExtension("image_stable.so", has_nvjpeg=True)


def test_pillow_tells_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one installed; one that knows no such feature; and one that cannot be imported."""
    found = read_pillow()
    assert found is not None
    assert isinstance(found.has_turbo, bool)
    from PIL import features

    monkeypatch.setattr(features, "features", {})
    older = read_pillow()
    assert older is not None
    assert (older.has_turbo, older.turbo_version, older.has_zlib_ng) == (None, None, None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert read_pillow() is None


def test_requirements_are_those_without_a_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extras and other platforms are left out; both ways of writing bounds are read."""
    lines = ["torch (>=2.14.0)", "pillow!=8.3.*,>=5.3.0", "Rich", "gdown>=4 ; extra == 'gdown'", "a[b]>=1", "???"]
    monkeypatch.setattr(installed.importlib.metadata, "requires", lambda name: lines)
    assert read_requirements("any") == {"torch": ">=2.14.0", "pillow": "!=8.3.*,>=5.3.0", "rich": "", "a": ">=1"}
    monkeypatch.setattr(installed.importlib.metadata, "requires", lambda name: None)
    assert read_requirements("any") == {}
    monkeypatch.undo()
    assert read_requirements("no-such-distribution") == {}


@pytest.mark.parametrize(
    ("version", "bounds", "answer"),
    [
        ("2.14", "==2.14.0", True),
        ("2.14.1", ">2.14", True),
        ("2.14.1", "<2.14", False),
        ("2.14.1", "<=2.14.1,!=2.14.0", True),
        ("2.14.1", "~=2.14", True),
        ("2.15", "~=2.14", True),
        ("2.15", "~=2.14.0", False),
        ("2.13", "~=2.14", False),
        ("3.0", "~=2.14", False),
        ("2.11.1", "!=2.11.*", False),
        ("2.11.1", "", True),
        ("2.11.1", "===2.11.1", None),
        ("2.11.1", "===2.11.1,<2", False),
        ("2.11.1rc1", ">=2", None),
        ("", ">=2", None),
        ("2.11.1", ">=2.*", None),
    ],
)
def test_bounds_are_understood_or_left_open(version: str, bounds: str, answer: bool | None) -> None:
    """What is not understood is never called wrong."""
    assert is_met(version, bounds) is answer


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.lists(st.integers(0, 99), min_size=1, max_size=4))
def test_bounds_agree_with_each_other(left: list[int], right: list[int]) -> None:
    """Exactly one of below, equal, above holds; zeros at the end change nothing."""
    version, bound = (".".join(map(str, numbers)) for numbers in (left, right))
    answers = [is_met(version, operator + bound) for operator in ("<", "==", ">")]
    assert answers.count(True) == 1
    assert is_met(version, f">={bound}") is not answers[0]
    assert is_met(f"{version}.0", f"=={version}")
