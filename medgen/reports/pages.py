"""Numbers and pictures → one self-contained HTML file: no network, no file beside it, everything escaped."""

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
    """Fill ``template`` (in this package); text from file names arrives escaped, in scripts too.

    ``static``: the page is for paper, where nothing slides, sorts or scrolls.
    """
    return _environment().get_template(template).render(versions=versions(), static=static, **context)


@cache
def _environment() -> Environment:
    # select_autoescape goes by the ending and would leave *.html.j2 unescaped: escape everything.
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
    """`render` and write the page at once; InputError if ``out_html`` cannot be written."""
    return save_page(render(template, **context), out_html)


def save_page(html: str, out_html: Path) -> Path:
    """Write a page; InputError if that cannot be."""
    out_html = Path(out_html)
    try:
        out_html.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            "folder-not-creatable", f"{out_html.parent} cannot be made for the report: {error.strerror or error}"
        ) from error
    write_text(out_html, html)
    return out_html


def versions() -> str:
    """The programs behind the numbers, in a line."""
    libraries = f"NumPy {numpy.__version__}, torch {torch.__version__}"
    return f"medgen {version()}, Python {platform.python_version()}, {libraries}"


def jpeg(picture: Picture | bytes) -> str:
    """The picture as a data URI."""
    return data_uri(picture.jpeg if isinstance(picture, Picture) else picture, "image/jpeg")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of a media type as a data URI."""
    return f"data:{kind};base64," + base64.b64encode(content).decode("ascii")


def local(time: datetime) -> str:
    """Date, time and zone of the machine that wrote the report."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M %Z")
