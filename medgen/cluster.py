"""Distribute cases over a Ray cluster: workers start once, take one case at a time, and may crash.

A worker is a Ray actor, a separate process on any node. Only paths and records are sent to it and back, so all nodes
need the same files under the same paths.
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

TRIES = 3  # attempts per case, and workers that may fail to start
PATIENCE = 60.0  # seconds without any worker before a message is printed

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cluster:
    """The Ray cluster to use.

    Attributes:
        address: ``local`` (start Ray on this machine), ``auto`` (the Ray running here) or ``HOST:PORT``.
        workers: number of workers; None: one per GPU, or on CPU as many as fit, each with as many threads as torch uses
            in this process.
        device: auto, cpu or cuda; Ray assigns each worker its GPU.
    """

    address: str = "local"
    workers: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class WorkerResources:
    """Resources of each of ``count`` workers: ``device`` and ``threads`` for torch, ``options`` for Ray."""

    count: int
    device: str
    threads: int
    options: dict[str, float] = field(default_factory=dict)


class WorkerLost:
    """Returned instead of a result if the worker of a case died ``TRIES`` times."""

    def __str__(self) -> str:
        return (
            f"its worker died {TRIES} times on this case (killed, out of memory, or a crash in a library); "
            "convert it without --ray to see the cause"
        )


@contextmanager
def joined(cluster: Cluster) -> Iterator[WorkerResources]:
    """Join the cluster, or start a local one, for the duration of the block. A cluster joined before stays joined.

    Raises:
        InputError: Ray is not installed, there is no cluster at the address, or it lacks the requested device.
    """
    if cluster.device not in ("auto", "cpu", "cuda"):
        raise InputError(
            "cluster-device-unsupported",
            f"--device {cluster.device} cannot be used with --ray; use auto, cpu or cuda, as Ray assigns the GPUs",
        )
    if importlib.util.find_spec("ray") is None:
        raise InputError("dependency-missing", "--ray needs Ray: pip install 'medgen[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray sends usage statistics to its developers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns about a future change
    import ray

    joined_before = ray.is_initialized()
    if not joined_before:
        _start(cluster.address)
    try:
        found = ray.cluster_resources()
        yield _share(cluster, int(found.get("CPU", 0)), int(found.get("GPU", 0)))
    finally:
        if not joined_before:
            ray.shutdown()


def _start(address: str) -> None:
    """Join or start Ray. Raises InputError."""
    import ray

    # A local Ray needs no dashboard and little object memory, because only lists of paths are sent.
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 100 * 2**20} if address == "local" else {}
    kept = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, RuntimeError, ValueError, ImportError, TimeoutError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            "cluster-unreachable",
            f"--ray {address}: the cluster cannot be joined ({reason}); check that Ray is running there",
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, kept)  # Ray has replaced the handler of the command


def _share(cluster: Cluster, cpus: int, gpus: int) -> WorkerResources:
    """Divide the CPUs and GPUs of the cluster among the workers."""
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
    """Yield each item with the result of the workers, as they finish, in any order.

    An item whose worker dies (killed, out of memory, machine lost) goes to another worker, up to ``TRIES`` attempts.

    Args:
        items: consumed as workers become free. None means that there is no item for now: the items in progress are
            finished before the next one is requested.
        make: called in the process of each worker; returns the function that processes an item. It and the items must
            be picklable.
        share: resources of the workers, see ``joined``.

    Raises:
        InputError: no worker can be started. An exception raised by processing an item is raised unchanged.
    """
    workers = _Workers(make, share)
    try:
        for item in items:
            if item is None:
                yield from workers.finished()
            else:
                yield from workers.add(item)
        yield from workers.finished()
    finally:
        workers.stop()


def in_order(items: Iterable[Item], found: Iterable[tuple[Item, Result]]) -> Iterator[Result]:
    """Reorder the results of ``spread`` to the order of the hashable items; yield each as soon as possible."""
    kept: dict[Item, Result] = {}
    waiting = deque(items)
    for item, result in found:
        kept[item] = result
        while waiting and waiting[0] in kept:
            yield kept.pop(waiting.popleft())


class _Worker:
    """The Ray actor. If it cannot be created, its error states the reason."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], version: str, folder: str) -> None:
        try:
            os.chdir(folder)  # so that relative paths are valid
        except OSError as error:
            raise InputError(
                "cluster-folder-missing",
                f"a cluster node has no folder {folder} ({error.strerror}); start in a folder that all nodes share",
            ) from None
        if version != __version__:
            raise InputError(
                "cluster-version-differs",
                f"a cluster node has medgen {__version__}, not {version}; install the same version there",
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
    """The workers of one ``spread``, and their queue of tasks."""

    def __init__(self, make: Callable[[], Callable[[Item], Result]], share: WorkerResources) -> None:
        import ray

        self.make, self.count = make, share.count
        self.actor: Any = ray.remote(_Worker).options(**share.options)
        self.starting: dict[Any, Any] = {}  # reference of its readiness: worker
        self.idle: list[Any] = []
        self.busy: dict[Any, tuple[Any, _Task[Item]]] = {}  # reference of the result: worker and its task
        self.queue: deque[_Task[Item]] = deque()
        self.failed = 0
        self.reason = ""

    def add(self, item: Item) -> Iterator[tuple[Item, Result | WorkerLost]]:
        """Add an item, and yield results until there is room for another."""
        self.queue.append(_Task(item))
        while len(self.queue) + len(self.busy) >= self.count:
            yield from self._next()

    def finished(self) -> Iterator[tuple[Item, Result | WorkerLost]]:
        """Yield results until no item is left."""
        while self.queue or self.busy:
            yield from self._next()

    def stop(self) -> None:
        import ray

        for worker in (*self.starting.values(), *self.idle, *(worker for worker, _ in self.busy.values())):
            ray.kill(worker)

    def _next(self) -> Iterator[tuple[Item, Result | WorkerLost]]:
        """Wait for the next event: a worker has started, returned a result, or died."""
        import ray

        while self.idle and self.queue:
            worker, task = self.idle.pop(), self.queue.popleft()
            self.busy[worker.run.remote(task.item)] = worker, task
        needed = min(self.count, len(self.queue) + len(self.busy))
        while len(self.starting) + len(self.idle) + len(self.busy) < needed and self.failed < TRIES:
            worker = self.actor.remote(self.make, __version__, os.getcwd())
            self.starting[worker.ready.remote()] = worker
        if not (self.starting or self.busy):
            raise InputError(
                "cluster-worker-failed",
                f"no worker of the Ray cluster can be started ({self.reason}); check the cluster",
            )
        if not self.busy:
            done, _ = ray.wait([*self.starting], timeout=PATIENCE)
            if not done:
                print("medgen: waiting for free resources in the Ray cluster", file=sys.stderr, flush=True)
        done, _ = ray.wait([*self.starting, *self.busy])
        if done[0] in self.starting:
            self._started(done[0])
        else:
            yield from self._ended(done[0])

    def _started(self, reference: Any) -> None:
        import ray

        worker = self.starting.pop(reference)
        try:
            ray.get(reference)
            self.idle.append(worker)
        except ray.exceptions.RayError as error:
            self.failed += 1
            self.reason = _reason(error)

    def _ended(self, reference: Any) -> Iterator[tuple[Item, Result | WorkerLost]]:
        import ray

        worker, task = self.busy.pop(reference)
        try:
            result = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError:  # worker dead or unreachable; kill it so that it does not continue unobserved
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
    """The last line of a Ray error; for an error in a worker's start, that error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).removeprefix(f"{InputError.__module__}.InputError: ")
