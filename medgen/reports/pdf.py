"""The page on paper: HTML → PDF by WeasyPrint, an extra that also needs the system's Pango."""

import contextlib
import io
from pathlib import Path

from medgen.io.atomic import atomic_write

EXTRA = "WeasyPrint is missing; install it: pip install 'medgen[pdf]'"
SYSTEM = (
    "WeasyPrint finds no Pango on this system; install it: "
    "apt-get install libpango-1.0-0 libpangoft2-1.0-0 (Debian, Ubuntu), brew install pango (macOS)"
)


def missing() -> str | None:
    """Why no PDF can be made here and what to do about it, in a sentence; None where one can."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a page of its own about missing libraries
            import weasyprint  # noqa: F401
    except ImportError:
        return EXTRA
    except OSError:
        return SYSTEM
    return None


def write_pdf(html: str, out: Path) -> Path:
    """Print ``html``, which must hold all its pictures itself: nothing is fetched, neither file nor network.

    Raises InputError if ``out`` cannot be written. Call it only where `missing` returns None.
    """
    import weasyprint
    from weasyprint.urls import URLFetcher

    content = weasyprint.HTML(string=html, url_fetcher=URLFetcher(allowed_protocols=["data"])).write_pdf()
    with atomic_write(out) as aside:
        aside.write_bytes(content)
    return Path(out)
