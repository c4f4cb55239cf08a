"""Cases over the machines of a Ray cluster: workers that are made once, take one case at a time, and may die.

A worker is a Ray actor, a process of its own on any node. Nothing but paths and records goes to it and back, so every
node has to see the same files under the same names.
"""

import importlib.util
import logging
import math
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from medgen import __version__
from medgen.errors import InputError

TRIES = 3  # that a case has, and workers that may fail to start
PATIENCE = 60.0  # seconds without any worker before the user is told

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster, and what of it.

    ``address``: ``local`` (a Ray of our own on this machine), ``auto`` (the one that runs here) or ``HOST:PORT``.
    ``workers``: None: one a GPU, or on CPU as many as have the threads that torch takes in this process.
    ``device``: auto, cpu or cuda; Ray gives each worker its GPU.
    """

    address: str = "local"
    workers: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class WorkerResources:
    """What each of ``count`` workers gets; ``device`` and ``threads`` are for torch, ``options`` for Ray."""

    count: int
    device: str
    threads: int
    options: dict[str, float] = field(default_factory=dict)


class WorkerLost:
    """In place of a result: the case's worker died, ``TRIES`` times."""

    def __str__(self) -> str:
        return (
            f"its worker died {TRIES} times over it (killed, out of memory, or a crash in a library); "
            "run it alone, without --ray, to see why"
        )


@contextmanager
def joined(cluster: Cluster) -> Iterator[WorkerResources]:
    """Join the cluster, or start a local one, for as long as the block lasts; one joined before is used and left.

    Raises:
        InputError: Ray is not installed, no cluster at the address, or it has not what is asked for.
    """
    if cluster.device not in ("auto", "cpu", "cuda"):
        raise InputError(
            "cluster-device-unsupported",
            f"--device {cluster.device}: with --ray it is auto, cpu or cuda; Ray chooses which GPU",
        )
    if importlib.util.find_spec("ray") is None:
        raise InputError("dependency-missing", "--ray needs Ray: pip install 'medgen[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it sends statistics to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a change to come
    import ray

    before = ray.is_initialized()
    if not before:
        _start(cluster.address)
    try:
        found = ray.cluster_resources()
        yield _share(cluster, int(found.get("CPU", 0)), int(found.get("GPU", 0)))
    finally:
        if not before:
            ray.shutdown()


def _start(address: str) -> None:
    import ray

    # Of our own Ray: no dashboard, and little memory for objects, for none is larger than a list of paths.
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 100 * 2**20} if address == "local" else {}
    kept = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, RuntimeError, ValueError, ImportError, TimeoutError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            "cluster-unreachable", f"--ray {address}: the cluster cannot be joined ({reason}); is Ray started there?"
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, kept)  # Ray puts its own in place of the command's


def _share(cluster: Cluster, cpus: int, gpus: int) -> WorkerResources:
    import torch

    if cluster.device == "cuda" and not gpus:
        raise InputError(
            "cluster-gpu-missing", f"--device cuda: the Ray cluster {cluster.address} has no GPU; use --device cpu"
        )
    if gpus and cluster.device != "cpu":
        count = cluster.workers or gpus
        options = {"num_gpus": 1 / math.ceil(count / gpus), "num_cpus": min(1.0, cpus / count)}
        return WorkerResources(count, "cuda", max(1, min(torch.get_num_threads(), cpus // count)), options)
    count = cluster.workers or max(1, cpus // torch.get_num_threads())
    threads = max(1, min(torch.get_num_threads(), cpus // count))
    return WorkerResources(count, "cpu", threads, {"num_cpus": min(threads, cpus / count)})


def spread(
    items: Iterable[Item | None], make: Callable[[], Callable[[Item], Result]], share: WorkerResources
) -> Generator[tuple[Item, Result | WorkerLost], None, None]:
    """Each item with what the workers make of it, as they are finished, in no order.

    An item whose worker dies (killed, out of memory, its machine lost) is given to another, ``TRIES`` times in all.

    Args:
        items: taken as workers have room for them. None among them: there is no more for now, so finish what is
            under way before asking again.
        make: makes what a worker works with, in its process; both it and the items can be pickled.
        share: see ``joined``.

    Raises:
        InputError: no worker can be started. An exception of the work itself is raised as it is.
    """
    workers = _Workers(make, share)
    try:
        for item in items:
            if item is None:
                yield from workers.finished()
            else:
                yield from workers.given(item)
        yield from workers.finished()
    finally:
        workers.stop()


def in_order(items: Iterable[Item], found: Iterable[tuple[Item, Result]]) -> Iterator[Result]:
    """What ``spread`` found, in the order of the items, which are hashable; each as soon as all before it are there."""
    kept: dict[Item, Result] = {}
    waiting = deque(items)
    for item, result in found:
        kept[item] = result
        while waiting and waiting[0] in kept:
            yield kept.pop(waiting.popleft())


class _Worker:
    """The actor. One that cannot be made dies with the reason."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], version: str, folder: str) -> None:
        try:
            os.chdir(folder)  # so that relative paths mean the same
        except OSError as error:
            raise InputError(
                "cluster-folder-missing",
                f"a node has no {folder} ({error.strerror}); start in a folder all nodes share",
            ) from None
        if version != __version__:
            raise InputError(
                "cluster-version-differs",
                f"a node of the cluster has medgen {__version__}, not {version}; install the same there",
            )
        self.work = make()

    def ready(self) -> bool:
        return True

    def run(self, item: Any) -> Any:
        return self.work(item)


@dataclass(frozen=True)
class _Task(Generic[Item]):
    item: Item
    tries: int = 0


class _Workers(Generic[Item, Result]):
    def __init__(self, make: Callable[[], Callable[[Item], Result]], share: WorkerResources) -> None:
        import ray

        self.make, self.count = make, share.count
        self.actor: Any = ray.remote(_Worker).options(**share.options)
        self.starting: dict[Any, Any] = {}  # reference to its readiness: worker
        self.idle: list[Any] = []
        self.busy: dict[Any, tuple[Any, _Task[Item]]] = {}  # reference to the result: who makes it of what
        self.queue: deque[_Task[Item]] = deque()
        self.failed = 0
        self.reason = ""

    def given(self, item: Item) -> Iterator[tuple[Item, Result | WorkerLost]]:
        """Take an item, and wait until there is room for another."""
        self.queue.append(_Task(item))
        while len(self.queue) + len(self.busy) >= self.count:
            yield from self._next()

    def finished(self) -> Iterator[tuple[Item, Result | WorkerLost]]:
        while self.queue or self.busy:
            yield from self._next()

    def stop(self) -> None:
        import ray

        for worker in (*self.starting.values(), *self.idle, *(worker for worker, _ in self.busy.values())):
            ray.kill(worker)

    def _next(self) -> Iterator[tuple[Item, Result | WorkerLost]]:
        """Wait for whatever comes next: a worker that has started, a result, a death."""
        import ray

        while self.idle and self.queue:
            worker, task = self.idle.pop(), self.queue.popleft()
            self.busy[worker.run.remote(task.item)] = worker, task
        wanted = min(self.count, len(self.queue) + len(self.busy))
        while len(self.starting) + len(self.idle) + len(self.busy) < wanted and self.failed < TRIES:
            worker = self.actor.remote(self.make, __version__, os.getcwd())
            self.starting[worker.ready.remote()] = worker
        if not (self.starting or self.busy):
            raise InputError("cluster-worker-failed", f"no worker of the Ray cluster can be started: {self.reason}")
        if not self.busy:
            done, _ = ray.wait([*self.starting], timeout=PATIENCE)
            if not done:
                print("medgen: waiting for the Ray cluster to have room for a worker", file=sys.stderr, flush=True)
        done, _ = ray.wait([*self.starting, *self.busy])
        if done[0] in self.starting:
            self._started(done[0])
        else:
            yield from self._came(done[0])

    def _started(self, reference: Any) -> None:
        import ray

        worker = self.starting.pop(reference)
        try:
            ray.get(reference)
            self.idle.append(worker)
        except ray.exceptions.RayError as error:
            self.failed += 1
            self.reason = _reason(error)

    def _came(self, reference: Any) -> Iterator[tuple[Item, Result | WorkerLost]]:
        import ray

        worker, task = self.busy.pop(reference)
        try:
            result = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError:  # the worker is gone, or out of sight; then it must not go on by itself
            ray.kill(worker)
            task = replace(task, tries=task.tries + 1)
            if task.tries < TRIES:
                self.queue.appendleft(task)
            else:
                yield task.item, WorkerLost()
            return
        self.idle.append(worker)
        yield task.item, result


def _reason(error: Exception) -> str:
    """The last line of what Ray says: of an error in a worker's own start, that error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).removeprefix(f"{InputError.__module__}.InputError: ")
