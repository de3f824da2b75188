"""What makes a page one safe file? Without network, complete without JavaScript, foreign text only as text."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from loadtune.render.saved import Saved, encode_report
from loadtune.render.words import visible


def render_page(kind: str, record: Saved, context: Mapping[str, Any]) -> str:
    """Return the page of a record.

    Args:
        kind: `report` or `verification`: names the template and the file that the page saves.
        record: What the page shows; all of it is embedded as JSON.
        context: All else that the template shows.
    """
    style, script, first = (_read(name) for name in ("report.css", "report.js", "theme.js"))
    environment = Environment(
        autoescape=True,
        finalize=_make_visible,
        loader=FunctionLoader(_read),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(f"{kind}.html.jinja").render(
        kind=kind,
        record=record,
        style=Markup(style),  # noqa: S704  # our own files, which hold no foreign text
        script=Markup(script),  # noqa: S704
        first_script=Markup(first),  # noqa: S704
        script_hashes=[_hash_script(first), _hash_script(script)],
        data=_embed_json(record),
        **context,
    )


def _read(name: str) -> str:
    """Return one of the files beside this module."""
    return resources.files("loadtune.render").joinpath(name).read_text("utf-8")


def _make_visible(value: Any) -> Any:
    """Take control characters and lone surrogates out of every text that enters the page; Markup is our own.

    A number stays on one line with its per cent sign.
    """
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value).replace(" %", "\N{NO-BREAK SPACE}%")
    return value


def _hash_script(script: str) -> str:
    """Return the source that lets exactly this script run under the page's content security policy."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _embed_json(record: Saved) -> Markup:
    """Return the record's JSON for a script element: without `<` nothing in it can end the element."""
    text = encode_report(record).decode("utf-8").strip()
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704
