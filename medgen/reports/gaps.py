"""Collect the parts of a report that fail: each becomes a line with section, case and reason instead of an error."""

import logging
from collections.abc import Callable
from typing import Any

from medgen.errors import reason

log = logging.getLogger(__name__)


class Gaps:
    """``lines``: one sentence per part that is missing from a report."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def attempt(self, section: str, make: Callable[[], Any], otherwise: Any, case: str = "") -> Any:
        """Return ``make()``; if it raises, log the reason, add it to ``lines`` and return ``otherwise``."""
        try:
            return make()
        except Exception as error:
            line = f"{section}{f', {case}' if case else ''}: cannot be shown: {reason(error)}"
            log.warning("%s", line)
            self.lines.append(line)
            return otherwise
