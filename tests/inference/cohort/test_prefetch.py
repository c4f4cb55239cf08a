"""Reading, processing and writing in parallel."""

import threading
import time

import pytest

from medgen.inference.cohort.prefetch import overlapped


class Held:
    """Stages that count the jobs held at a time."""

    def __init__(self, size=1):
        self.size, self.lock, self.now, self.most, self.threads = size, threading.Lock(), 0, 0, {}

    def read(self, item):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.threads["read"] = threading.current_thread()
        return [item]

    def work(self, job):
        time.sleep(0.005)
        self.threads["work"] = threading.current_thread()
        job.append("worked")

    def write(self, job):
        self.threads["write"] = threading.current_thread()
        job.append("written")
        with self.lock:
            self.now -= 1

    def run(self, items, bound=10):
        return overlapped(items, self.read, self.work, self.write, lambda job: self.size, lambda job: 0, bound)


def test_order_is_kept_and_each_stage_has_its_thread():
    held = Held()
    assert list(held.run(range(9))) == [[n, "worked", "written"] for n in range(9)]
    assert len(set(held.threads.values())) == 3 and held.threads["work"] is threading.current_thread()
    assert held.now == 0 and 1 <= held.most <= 3


def test_above_the_bound_one_job_is_held_at_a_time():
    held = Held(size=4)
    assert len(list(held.run(range(6)))) == 6
    assert held.most == 1


def test_jobs_in_progress_finish_before_the_next_item_is_requested():
    held, seen = Held(), []

    def items():
        for n in (0, 1, None, 2, None, None):
            yield n
            if n is None:
                seen.append(held.now)

    assert [job[0] for job in held.run(items())] == [0, 1, 2]
    assert seen == [0, 0, 0]


@pytest.mark.parametrize("stage", ["read", "work", "write"])
def test_errors_are_raised_and_threads_end(stage):
    held, before = Held(), threading.active_count()

    def broken(_):
        raise ValueError("broken")

    setattr(held, stage, broken)
    with pytest.raises(ValueError, match="broken"):
        list(held.run(range(3)))
    assert threading.active_count() == before
    assert list(Held().run([])) == []


def test_several_writers_keep_the_order_and_the_bound():
    for bound, most in ((100, 5), (4, 4), (3, 3)):
        held, writing = Held(), threading.Barrier(2 if bound == 100 else 1, timeout=20)

        def write(job, held=held, writing=writing):
            if job[0] in (3, 4):  # both at once where there is room
                writing.wait()
            Held.write(held, job)

        held.write = write
        jobs = overlapped(range(9), held.read, held.work, held.write, lambda job: 1, lambda job: 0, bound, 3)
        assert [job[0] for job in jobs] == list(range(9))
        assert held.now == 0 and held.most <= most


@pytest.mark.parametrize("by", ["closing", "interrupt"])
def test_writes_in_progress_are_finished_at_the_end(by):
    held, written, going = Held(), [], threading.Event()

    def work(job):
        if job[0] == 3 and by == "interrupt":
            raise KeyboardInterrupt
        Held.work(held, job)

    def write(job):
        if job[0]:
            going.wait(20)
        written.append(job[0])

    jobs = overlapped(range(9), held.read, work, write, lambda job: 1, lambda job: 0, 100, 3)
    taken = next(jobs) if by == "closing" else None  # by now 1 and 2 are under way
    threading.Timer(0.1, going.set).start()
    if taken:
        jobs.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            list(jobs)
    assert sorted(written) == [0, 1, 2] and list(jobs) == []


def test_memory_for_writing_counts_towards_the_bound():
    held = Held()
    jobs = overlapped(range(6), held.read, held.work, held.write, lambda job: 1, lambda job: 3, 5, 3)
    assert len(list(jobs)) == 6 and held.most == 1


def test_jobs_without_size_are_returned_too():
    """Skipped jobs hold no memory."""
    held = Held(size=0)
    assert len(list(held.run(range(5)))) == 5
    assert len(list(held.run(range(5), bound=-1))) == 5


def test_the_bound_holds_for_jobs_of_falling_sizes():
    """A small job must not admit further jobs beside larger ones that are still being written."""
    sizes, now, most, lock = [400, 200, 130, 100, 80, 60, 50, 40, 30, 20], 0, 0, threading.Lock()

    def changed(by):
        nonlocal now, most
        with lock:
            now += by
            most = max(most, now)

    def read(n):
        changed(sizes[n])
        return n

    def write(n):
        changed(2 * sizes[n])
        time.sleep(0.02)
        changed(-3 * sizes[n])

    jobs = overlapped(range(10), read, lambda n: None, write, lambda n: sizes[n], lambda n: 2 * sizes[n], 2000, 8)
    assert list(jobs) == list(range(10)) and now == 0 and most <= 2000
