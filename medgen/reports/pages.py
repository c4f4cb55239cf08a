"""Render reports as self-contained HTML files: no network or other files needed, all text escaped."""

import base64
import platform
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from medgen.errors import InputError
from medgen.evaluation.summary import version
from medgen.io.atomic import write_text
from medgen.reports.images.figures import Picture
from medgen.reports.tables import number, percent, signed


def render(template: str, *, static: bool = False, **context: Any) -> str:
    """Render ``template`` of this package. All text is escaped, also in scripts.

    ``static``: render for print, without sliders, sorting and scrolling.
    """
    return _environment().get_template(template).render(versions=versions(), static=static, **context)


@cache
def _environment() -> Environment:
    # Escape everything: select_autoescape decides by file ending and would not escape *.html.j2.
    environment = Environment(
        loader=PackageLoader("medgen.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "percent": percent,
        "jpeg": jpeg,
        "data_uri": data_uri,
        "local": local,
    }
    return environment


def write_page(template: str, out_html: Path, **context: Any) -> Path:
    """Render a page and write it. Raises InputError if ``out_html`` cannot be written."""
    return save_page(render(template, **context), out_html)


def save_page(html: str, out_html: Path) -> Path:
    """Write a page. Raises InputError if ``out_html`` cannot be written."""
    out_html = Path(out_html)
    try:
        out_html.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            "folder-not-creatable",
            f"{out_html.parent} cannot be created for the report ({error.strerror or error}); choose another folder",
        ) from error
    write_text(out_html, html)
    return out_html


def versions() -> str:
    """Return the versions of medgen and its main libraries as one line."""
    libraries = f"NumPy {numpy.__version__}, torch {torch.__version__}"
    return f"medgen {version()}, Python {platform.python_version()}, {libraries}"


def jpeg(picture: Picture | bytes) -> str:
    """Return the picture as a data URI."""
    return data_uri(picture.jpeg if isinstance(picture, Picture) else picture, "image/jpeg")


def data_uri(content: bytes, kind: str) -> str:
    """Return bytes of the media type ``kind`` as a data URI."""
    return f"data:{kind};base64," + base64.b64encode(content).decode("ascii")


def local(time: datetime) -> str:
    """Format a time in the local time zone of the machine that writes the report."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M %Z")
