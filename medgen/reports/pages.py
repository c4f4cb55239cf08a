"""Numbers and pictures → one self-contained HTML file: no network, no file beside it, everything escaped."""

import base64
import math
import platform
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from medgen.evaluation.summary import version, write_text
from medgen.reports.figures import Picture
from medgen.types import InputError

MINUS = "−"


def write_page(template: str, out_html: Path, **context: Any) -> Path:
    """Fill ``template`` (in this package) and write it at once; text from file names arrives escaped."""
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
        "local": local,
    }
    out_html = Path(out_html)
    try:
        out_html.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out_html.parent} cannot be made for the report: {error.strerror or error}") from error
    write_text(out_html, environment.get_template(template).render(versions=versions(), **context))
    return out_html


def versions() -> str:
    """The programs behind the numbers, in a line."""
    libraries = f"NumPy {numpy.__version__}, torch {torch.__version__}"
    return f"medgen {version()}, Python {platform.python_version()}, {libraries}"


def number(value: float | None, digits: int = 1) -> str:
    """Fixed digits with a true minus sign; an en dash for what was not measured, ∞ for identical images."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{value:,.{digits}f}".replace(",", "\u2009")
    return text.removeprefix("-") if not text.strip("-0.") else text.replace("-", MINUS)


def signed(value: float | None, digits: int = 1) -> str:
    """`number` with its sign always shown, except for zero."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and text.strip("0.") else text


def percent(value: float | None) -> str:
    """0.873 → 87 %."""
    return number(value if value is None else 100 * value, 0) + ("" if value is None else "\u00a0%")


def jpeg(picture: Picture) -> str:
    """The picture as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode("ascii")


def local(time: datetime) -> str:
    """Date, time and zone of the machine that wrote the report."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M %Z")
