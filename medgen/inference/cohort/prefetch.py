"""Reading, working and writing at once: a reader thread and writer threads beside the caller's own."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

NONE = -1  # bytes: a job that was skipped takes 0
Item = TypeVar("Item")
Job = TypeVar("Job")


def overlapped(
    items: Iterable[Item | None],
    read: Callable[[Item], Job],
    work: Callable[[Job], None],
    write: Callable[[Job], None],
    size: Callable[[Job], int],
    beside: Callable[[Job], int],
    bound: int,
    writers: int = 1,
) -> Generator[Job, None, None]:
    """Each item's job, in order, once written.

    While a job is worked on, the next is read and those before are written, at most one a writer, as long as all of
    them, and what writing takes, stay within ``bound``; the next counts as much as the one worked on, until it is
    read. A job with no room for a next one is held alone.

    Closed, or interrupted by KeyboardInterrupt, it ends once those being read and written are; nothing else is begun.

    Args:
        items: taken in the caller's thread, one ahead. None among them: there is no more for now, so finish what
            is under way before asking again.
        read: makes the job, in the reader thread.
        work: in the caller's thread.
        write: in a writer thread.
        size: bytes that a job holds.
        beside: bytes that writing it takes besides.
        bound: bytes that all may hold together.
        writers: threads that write, where the bound allows as many.
    """
    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(writers, "writer") as writer:
        waiting = iter(items)

        def ahead() -> Future[Job] | None:
            item = next(waiting, None)
            return None if item is None else reader.submit(read, item)

        for item in waiting:
            reading = None if item is None else reader.submit(read, item)
            under_way: deque[tuple[Job, int, Future[None]]] = deque()
            while reading is not None:
                job = reading.result()
                own = size(job)
                whole = own + beside(job)
                fits = 2 * own + whole <= bound  # one written, one worked on, one read
                yield from _written(under_way, bound - 2 * own if fits else NONE)
                reading = ahead() if fits else None
                work(job)
                yield from _written(under_way, bound - 2 * own - whole, writers - 1)
                under_way.append((job, whole, writer.submit(write, job)))
                if not fits:
                    yield from _written(under_way, NONE)
                    reading = ahead()
            yield from _written(under_way, NONE)


def _written(under_way: deque[tuple[Job, int, Future[None]]], most: int, count: int | None = None) -> Iterator[Job]:
    """The jobs under way, oldest first, until they take no more than ``most`` and are no more than ``count``."""
    while under_way and (
        sum(taken for _, taken, _ in under_way) > most or (count is not None and len(under_way) > count)
    ):
        job, _, done = under_way.popleft()
        done.result()
        yield job
