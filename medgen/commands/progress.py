"""One progress bar with time left for commands that go through many cases."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def case_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar while cases are worked on; lines that are printed meanwhile stand above it.

    Nothing is shown if standard output is no terminal, so that logs and pipes hold the lines alone. The bar disappears
    at the end.

    Args:
        text: what is done, such as "translating".

    Yields:
        A function that takes the number of finished cases and of all cases; 0 if that is unknown.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(), transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(text, total=None)

        def show(finished: int, total: int) -> None:
            bar.update(task, completed=finished, total=total or None)

        yield show
