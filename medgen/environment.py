"""Package versions and the git commit, for provenance."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from medgen import __version__


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; "missing" if not installed."""
    packages = {"python": platform.python_version(), "medgen": __version__}
    for name in (
        "torch",
        "monai",
        "numpy",
        "scipy",
        "nibabel",
        "SimpleITK",
        "pydicom",
        "lightning-fabric",
    ):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "missing"
    return packages


@cache
def git_commit() -> str | None:
    """Commit of the running medgen checkout, with ``+`` if it has uncommitted changes; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        dirty = subprocess.run(["git", "-C", root, "status", "--porcelain", "-uno"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout else "") if head.returncode == 0 else None
