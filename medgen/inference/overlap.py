"""Reading, working and writing at once: a reader thread and writer threads beside the caller's own."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

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

    While a job is worked on, the next is read and those before are written, at most one a writer. Where three of its
    size, and what writing takes, would pass ``bound``, the others wait until it is done and one alone is held.

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
            under_way: deque[tuple[Job, Future[None]]] = deque()
            while reading is not None:
                job = reading.result()
                room = (bound - 2 * size(job)) // max(size(job) + beside(job), 1)  # two: worked on, and read
                fits = room >= 1
                if not fits:
                    yield from _written(under_way)
                reading = ahead() if fits else None
                work(job)
                yield from _written(under_way, max(min(writers, room), 1) - 1)
                under_way.append((job, writer.submit(write, job)))
                if not fits:
                    yield from _written(under_way)
                    reading = ahead()
            yield from _written(under_way)


def _written(under_way: deque[tuple[Job, Future[None]]], but: int = 0) -> Iterator[Job]:
    """The jobs under way, oldest first, until ``but`` so many are left."""
    while len(under_way) > but:
        job, done = under_way.popleft()
        done.result()
        yield job
