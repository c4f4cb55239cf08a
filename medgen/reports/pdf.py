"""Convert HTML to PDF with WeasyPrint, an optional dependency that also needs the system library Pango."""

import contextlib
import gc
import io
from collections.abc import Iterator
from pathlib import Path

from medgen.io.atomic import atomic_write

EXTRA = "WeasyPrint is missing; install it: pip install 'medgen[pdf]'"
SYSTEM = (
    "WeasyPrint cannot find Pango on this system; install it: "
    "apt-get install libpango-1.0-0 libpangoft2-1.0-0 (Debian, Ubuntu), brew install pango (macOS)"
)


def missing() -> str | None:
    """Return why no PDF can be written on this system and what to install; None if it can."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # WeasyPrint prints a long text if libraries are missing
            import weasyprint  # noqa: F401
    except ImportError:
        return EXTRA
    except OSError:
        return SYSTEM
    return None


def write_pdf(html: str, out: Path) -> Path:
    """Convert ``html`` to a PDF. Pictures must be embedded as data URIs: no file or network resource is loaded.

    Raises InputError if ``out`` cannot be written. Call it only if `missing` returns None.
    """
    import weasyprint
    from weasyprint.urls import URLFetcher

    with _without_collector():
        content = weasyprint.HTML(string=html, url_fetcher=URLFetcher(allowed_protocols=["data"])).write_pdf()
    with atomic_write(out) as temporary:
        temporary.write_bytes(content)
    return Path(out)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Switch Python's cycle collector off: it searches the growing page again and again, a sixth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
