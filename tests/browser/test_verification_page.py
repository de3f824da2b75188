"""The page of a verification in a real browser: it fits the window in either theme, and its controls act."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtune.render.verification_html import render_verification_html
from tests.verifications import VERIFICATIONS, fails, hostile

pytestmark = pytest.mark.browser

Open = Callable[..., Any]


@pytest.mark.parametrize("name", VERIFICATIONS)
@pytest.mark.parametrize("width_px", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_and_complains_of_nothing(open_page: Open, name: str, width_px: int, scheme: str) -> None:
    """No sideways scroll, folded or not, no error, no request; text and ground differ in both themes."""
    page = open_page(render_verification_html(VERIFICATIONS[name]()), width_px=width_px, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    assert [complaint for complaint in page.complaints if not complaint.startswith("data:")] == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(20, 23, 27)") == (scheme == "dark")


def test_check_is_a_card_on_a_telephone(open_page: Open) -> None:
    """The cells of a check stand below each other, its badge first; on a wide screen beside each other."""
    cells = "[...document.querySelector('.checks tbody').rows[0].cells].map(c => c.getBoundingClientRect().top)"
    narrow = open_page(render_verification_html(fails()), width_px=360).evaluate(cells)
    assert narrow == sorted(set(narrow))
    assert len(set(open_page(render_verification_html(fails())).evaluate(cells))) == 1


def test_interval_is_drawn_and_told(open_page: Open) -> None:
    """Each drawing has a size and a text alternative with its figures."""
    page = open_page(render_verification_html(fails()))
    drawings = page.get_by_role("img")
    assert drawings.count() == 3
    assert "1.003x [0.988 1.018]" in drawings.first.get_attribute("aria-label")
    box = page.locator(".ratio .reach").first.bounding_box()
    assert box["width"] > 20


def test_saved_file_has_the_name_of_its_kind(open_page: Open) -> None:
    """The page gives back verification.json."""
    page = open_page(render_verification_html(hostile()))
    assert page.locator("b").count() == 0
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save verification.json").click()
    assert saved.value.suggested_filename == "verification.json"
    assert '"kind": "verification"' in Path(saved.value.path()).read_text(encoding="utf-8")
