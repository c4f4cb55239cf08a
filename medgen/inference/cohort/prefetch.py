"""Read, process and write jobs concurrently: a reader thread, the caller's thread, and writer threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

NONE = -1  # bytes; less than the 0 of a skipped job, so that no job is left
Item = TypeVar("Item")
Job = TypeVar("Job")


def overlapped(
    items: Iterable[Item | None],
    read: Callable[[Item], Job],
    work: Callable[[Job], None],
    write: Callable[[Job], None],
    size: Callable[[Job], int],
    extra: Callable[[Job], int],
    bound: int,
    writers: int = 1,
) -> Generator[Job, None, None]:
    """Yield the job of each item, in order, once it is written.

    While a job is processed, the next one is read and earlier ones are written, at most one per writer, as long as all
    of them and the memory for writing stay within ``bound``. Until the next job is read, its size is taken to be that
    of the current one. A job that leaves no room for the next one is processed alone.

    If the generator is closed, or interrupted by KeyboardInterrupt, it ends after the reads and writes in progress and
    starts nothing else.

    Args:
        items: consumed in the caller's thread, one ahead. None means that there is no item for now: the jobs in
            progress are finished before the next item is requested.
        read: makes the job of an item, in the reader thread.
        work: processes a job, in the caller's thread.
        write: writes a job, in a writer thread.
        size: bytes that a job holds after processing.
        extra: additional bytes that writing a job needs.
        bound: bytes that all jobs may hold together.
        writers: maximum number of writer threads.
    """
    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(writers, "writer") as writer:
        iterator = iter(items)

        def read_next() -> Future[Job] | None:
            item = next(iterator, None)
            return None if item is None else reader.submit(read, item)

        for item in iterator:
            reading = None if item is None else reader.submit(read, item)
            in_progress: deque[tuple[Job, int, Future[None]]] = deque()
            while reading is not None:
                job = reading.result()
                held = size(job)
                total = held + extra(job)
                fits = 2 * held + total <= bound  # one being written, one processed, one read
                yield from _written(in_progress, bound - 2 * held if fits else NONE)
                reading = read_next() if fits else None
                work(job)
                yield from _written(in_progress, bound - 2 * held - total, writers - 1)
                in_progress.append((job, total, writer.submit(write, job)))
                if not fits:
                    yield from _written(in_progress, NONE)
                    reading = read_next()
            yield from _written(in_progress, NONE)


def _written(in_progress: deque[tuple[Job, int, Future[None]]], most: int, count: int | None = None) -> Iterator[Job]:
    """Wait for and yield jobs, oldest first, until at most ``count`` jobs with at most ``most`` bytes are left."""
    while in_progress and (
        sum(taken for _, taken, _ in in_progress) > most or (count is not None and len(in_progress) > count)
    ):
        job, _, done = in_progress.popleft()
        done.result()
        yield job
