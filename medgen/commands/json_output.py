"""``--json``: one JSON object on standard output, for scripts; everything else goes to standard error.

The object has ``command`` (arguments), ``exit_code``, ``errors`` (texts, empty if all went well), ``error_code`` (of an
`InputError`, else null), and what the command found or made, see docs/reference/cli.md.
"""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, NoReturn

import numpy as np

OPTION = "--json"
_found: dict[str, Any] = {}


def add_result(**values: Any) -> None:
    """Add entries to the object: JSON types, dataclasses and paths; numbers that are not finite become null."""
    _found.update(values)


def add_errors(*texts: str, code: str | None = None) -> None:
    """Add texts to ``errors``; ``code``: of the `InputError` that ended the command."""
    _found.setdefault("errors", []).extend(texts)
    _found["error_code"] = code or _found.get("error_code")


def run_for_scripts(run: Callable[[], None], arguments: list[str]) -> NoReturn:
    """Run a command whose output goes to standard error, then print its object and exit with its code.

    File descriptor 1 is redirected as well, because libraries and child processes write to it directly.
    """
    _found.clear()
    code: int | str | None = 0
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            run()
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.stderr.flush()
        os.dup2(kept, 1)
        os.close(kept)
    exit_code = code if isinstance(code, int) else 0 if code is None else 1
    if exit_code and not _found.get("errors"):
        add_errors("see standard error", code=None)  # wrong options, or interrupted
    head = {"command": arguments, "exit_code": exit_code, "errors": [], "error_code": None}
    print(json.dumps(_plain({**head, **_found}), allow_nan=False))
    sys.exit(exit_code)


def _plain(value: Any) -> Any:
    """The same with JSON types only."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return _plain(value.item())
    return value if value is None or isinstance(value, bool | int | str) else str(value)
