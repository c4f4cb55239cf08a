"""What a report cannot show is a line in it, with the section, the case and the reason; never the end of the report."""

import logging
from collections.abc import Callable
from typing import Any

from medgen.errors import reason

log = logging.getLogger(__name__)


class Gaps:
    """The ``lines`` of a report about what it lacks."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def attempt(self, section: str, make: Callable[[], Any], otherwise: Any, case: str = "") -> Any:
        """What ``make`` returns; where it fails, ``otherwise`` and a line that is logged, too."""
        try:
            return make()
        except Exception as error:
            line = f"{section}{f', {case}' if case else ''}: cannot be shown: {reason(error)}"
            log.warning("%s", line)
            self.lines.append(line)
            return otherwise
