"""Cases distributed to workers of a local Ray cluster, some of which die."""

import os
import signal
import sys
from functools import partial

import pytest
from refusal import refused

from medgen import cluster as module
from medgen.cluster import Cluster, WorkerLost, WorkerResources, in_order, joined, spread
from medgen.errors import InputError


def test_every_case_returns_a_result_if_workers_die(local_ray, tmp_path):
    def make():
        made = os.getpid()

        def work(item):
            with open(tmp_path / f"{item}.tried", "a") as tried:
                tried.write(f"{made}\n")
            if item == "killer" or (item == "3" and (tmp_path / "3.tried").read_text().count("\n") == 1):
                os.kill(os.getpid(), signal.SIGKILL)
            return item * 2

        return work

    taken, first_group = [], [str(n) for n in range(6)]

    def items():
        for item in [*first_group, None, "killer", "last"]:
            taken.append(item)
            yield item

    with joined(Cluster(workers=2)) as share:
        assert (share.count, share.device, share.threads) == (2, "cpu", 1)
        found = {}
        for item, result in spread(items(), make, share):
            assert len(taken) - taken.count(None) <= len(found) + 2, "no more is taken than there is room for"
            if item in first_group:
                assert "killer" not in taken, "None ends with what is under way"
            found[item] = result
    assert isinstance(found.pop("killer"), WorkerLost)
    assert found == {item: item * 2 for item in [*first_group, "last"]}
    tried = {path.stem: path.read_text().split() for path in tmp_path.iterdir()}
    assert {item: len(pids) for item, pids in tried.items() if len(pids) > 1} == {"3": 2, "killer": 3}
    assert len({pid for pids in tried.values() for pid in pids}) <= 2 + 4, "a worker is made once for all its cases"


def test_a_worker_that_cannot_start_reports_the_reason(local_ray, monkeypatch):
    monkeypatch.setattr(module, "TRIES", 1)

    def make():
        raise InputError("model-missing", "no model there")

    with joined(Cluster(workers=1)) as share, refused("cluster-worker-failed", names="no model there"):
        list(spread(["a"], make, share))


def test_ordered_results_are_yielded_as_early_as_possible():
    arrived = []

    def found():
        for item in "badc":
            arrived.append(item)
            yield item, item.upper()

    given = in_order("abcd", found())
    assert next(given) == "A" and arrived == ["b", "a"]
    assert [*given] == ["B", "C", "D"]


@pytest.mark.parametrize(
    ("given", "cpus", "gpus", "share"),
    [
        ({}, 8, 0, WorkerResources(4, "cpu", 2, {"num_cpus": 2})),
        ({}, 1, 0, WorkerResources(1, "cpu", 1, {"num_cpus": 1})),
        ({"workers": 8}, 8, 0, WorkerResources(8, "cpu", 1, {"num_cpus": 1})),
        ({"workers": 4}, 2, 0, WorkerResources(4, "cpu", 1, {"num_cpus": 0.5})),
        ({}, 32, 4, WorkerResources(4, "cuda", 2, {"num_gpus": 1, "num_cpus": 1})),
        ({"workers": 8}, 32, 4, WorkerResources(8, "cuda", 2, {"num_gpus": 0.5, "num_cpus": 1})),
        ({"device": "cpu"}, 4, 4, WorkerResources(2, "cpu", 2, {"num_cpus": 2})),
    ],
)
def test_resources_of_each_worker(given, cpus, gpus, share, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert module._share(Cluster(**given), cpus, gpus) == share


def test_unsupported_devices_and_missing_ray_are_refused(monkeypatch):
    for device in ("cuda:1", "mps"):
        with refused("cluster-device-unsupported", names=device), joined(Cluster(device=device)):
            pass
    with refused("cluster-gpu-missing"):
        module._share(Cluster(device="cuda"), 4, 0)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("importlib.util.find_spec", partial(dict.get, {}))
    with refused("dependency-missing", names="medgen[ray]"), joined(Cluster()):
        pass
