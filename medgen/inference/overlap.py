"""Reading, working and writing at once: a reader thread and a writer thread beside the caller's own."""

from collections.abc import Callable, Iterable, Iterator
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
    bound: int,
) -> Iterator[Job]:
    """Each item's job, in order, once written.

    While a job is worked on, the next is read and the one before is written: three are held, never more. Where
    three of its size would pass ``bound``, the others wait until it is done and one alone is held.

    Args:
        items: taken in the caller's thread, one ahead. None among them: there is no more for now, so finish what
            is under way before asking again.
        read: makes the job, in the reader thread.
        work: in the caller's thread.
        write: in the writer thread.
        size: bytes that a job holds.
        bound: bytes that all may hold together.
    """
    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as writer:
        waiting = iter(items)

        def ahead() -> Future[Job] | None:
            item = next(waiting, None)
            return None if item is None else reader.submit(read, item)

        for item in waiting:
            reading = None if item is None else reader.submit(read, item)
            under_way: list[tuple[Job, Future[None]]] = []  # one at most
            while reading is not None:
                job = reading.result()
                fits = 3 * size(job) <= bound
                if not fits:
                    yield from _written(under_way)
                reading = ahead() if fits else None
                work(job)
                yield from _written(under_way)
                under_way.append((job, writer.submit(write, job)))
                if not fits:
                    yield from _written(under_way)
                    reading = ahead()
            yield from _written(under_way)


def _written(under_way: list[tuple[Job, Future[None]]]) -> Iterator[Job]:
    while under_way:
        job, done = under_way.pop()
        done.result()
        yield job
