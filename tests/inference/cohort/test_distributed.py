"""A cohort on two local workers gives the result of one process, even if a worker dies."""

import json
import os
import signal

import nibabel as nib
import numpy as np
import pytest
from refusal import refused
from small import make_model
from typer.testing import CliRunner

from medgen.checkpoint import load_model, save_model
from medgen.cli import app
from medgen.cluster import Cluster, WorkerLost
from medgen.errors import InputError
from medgen.inference.cohort import distributed as module
from medgen.inference.cohort import watch
from medgen.inference.cohort.run import convert


@pytest.fixture
def saved(tmp_path):
    made = make_model()
    (tmp_path / "run/best").mkdir(parents=True)
    save_model(tmp_path / "run/best", made.generator, made.info)
    return load_model(tmp_path / "run/best")


@pytest.fixture
def studies(tmp_path):
    folder, rng = tmp_path / "in", np.random.default_rng(0)
    folder.mkdir()
    for n in range(6):
        scan = rng.integers(-1000, 400, (20, 20, 20)).astype(np.int16)
        nib.save(nib.Nifti1Image(scan, np.diag([2.0, 2, 2, 1])), folder / f"s{n}.nii.gz")
    (folder / "s2.nii.gz").write_text("no image")
    (folder / "s0.mha").write_bytes(b"nor this")
    return folder


def outputs(out):
    return {
        path.name: path.read_bytes() for path in out.iterdir() if path.name not in ("manifest.json", ".medgen.record")
    }


def records(out):
    """The manifest as written, including the order of cases, without times and the folder name."""
    manifest = json.loads((out / "manifest.json").read_text())
    for record in manifest["cases"].values():
        del record["seconds"]
        record["output"] = record["output"].replace(str(out), "OUT")
    return json.dumps(manifest)


def test_two_workers_and_a_killed_one_do_what_one_process_does(local_ray, saved, studies, tmp_path, monkeypatch):
    alone = convert(saved, studies, tmp_path / "alone")
    plain, marks, out = module._converter, tmp_path / "marks", tmp_path / "out"
    marks.mkdir()

    def spied(*given):
        convert, by = plain(*given), os.getpid()

        def work(given):
            (marks / str(by)).touch()
            if given[0].scan.case == "s3" and not (marks / "killed").exists():
                (marks / "killed").touch()
                (out / ".part-s3.nii.gz").write_bytes(b"half")
                os.kill(by, signal.SIGKILL)
            return convert(given)

        return work

    monkeypatch.setattr(module, "_converter", spied)
    monkeypatch.chdir(tmp_path)
    shown = []
    two = Cluster(workers=2)
    spread = convert(saved, studies, out, cluster=two, done=lambda entry, i, n: shown.append((entry.case, i, n)))
    assert (marks / "killed").exists() and len(list(marks.iterdir())) - 1 >= 2, "one was killed, two have worked"
    assert [(r.case, r.status, r.warnings) for r in spread] == [(r.case, r.status, r.warnings) for r in alone]
    assert [r.error for r in spread] == [r.error for r in alone] and sum(r.error is not None for r in alone) == 2
    assert {case for case, *_ in shown} == {f"s{n}" for n in range(6)}
    assert [i for _, i, _ in shown] == [*range(1, 8)] and {n for *_, n in shown} == {7}
    assert outputs(out) == outputs(tmp_path / "alone") and len(outputs(out)) == 5
    assert records(out) == records(tmp_path / "alone")


def faked(died=(), shuffled=False):
    """A substitute for workers, in this process, that loses the cases in ``died``."""

    def spread(items, make, share):
        work = make()
        found = [(item, WorkerLost() if item[0].scan.case in died else work(item)) for item in items]
        yield from reversed(found) if shuffled else found

    return spread


def test_a_failure_on_a_worker_is_retried_under_watch(local_ray, saved, studies, tmp_path, monkeypatch):
    scans, seen, whole = tmp_path / "arriving", [], (studies / "s0.nii.gz").read_bytes()
    scans.mkdir()
    (scans / "a.nii.gz").write_bytes(b"x" * len(whole))
    before = (scans / "a.nii.gz").stat()

    def done(entry, number, count):
        seen.append(entry.status)
        if entry.status == "converted":
            raise KeyboardInterrupt
        (tmp_path / "replacement").write_bytes(whole)  # same size and time, so only a retry finds it
        os.utime(tmp_path / "replacement", ns=(before.st_atime_ns, before.st_mtime_ns))
        (tmp_path / "replacement").rename(scans / "a.nii.gz")

    monkeypatch.setattr(watch, "RETRY_PAUSES", (0.01,))
    results = convert(saved, scans, tmp_path / "out", watch=0.1, cluster=Cluster(workers=1), done=done)
    assert seen == ["failed", "converted"] and [r.status for r in results] == ["converted"]


def test_a_lost_case_is_reported_and_tried_again(local_ray, saved, studies, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(module, "spread", faked(died=["s4"], shuffled=True))
    results = convert(saved, studies, out, cluster=Cluster())
    assert [r.status for r in results].count("converted") == 4
    (lost,) = [r for r in results if r.case == "s4"]
    assert lost.status == "failed" and "s4.nii.gz: its worker died 3 times" in lost.error
    assert list(json.loads((out / "manifest.json").read_text())["cases"].values())[5]["error"] == lost.error
    monkeypatch.setattr(module, "spread", faked())
    again = convert(saved, studies, out, cluster=Cluster())
    assert [(r.case, r.status) for r in again if not r.error] == [
        (f"s{n}", "converted" if n == 4 else "skipped") for n in (0, 1, 3, 4, 5)
    ]
    convert(saved, studies, tmp_path / "alone")
    assert records(out) == records(tmp_path / "alone")


def test_an_output_missing_on_the_shared_disk_is_a_failure(local_ray, saved, studies, tmp_path, monkeypatch):
    def elsewhere(items, make, share):
        for (job, old), entry in faked()(items, make, share):
            for target in job.targets:
                target.unlink(missing_ok=True)
            yield (job, old), entry

    monkeypatch.setattr(module, "spread", elsewhere)
    results = convert(saved, [studies / "s0.nii.gz"], tmp_path / "out", cluster=Cluster())
    assert results[0].status == "failed" and "all nodes share" in results[0].error


def test_a_model_that_changed_or_has_no_folder_is_refused(local_ray, saved, studies, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "spread", faked())
    saved.info = saved.info.model_copy(update={"sha256": "of before"})
    with refused("model-changed-during-run"):
        convert(saved, studies, tmp_path / "out", cluster=Cluster())
    with refused("cluster-model-without-folder"):
        convert(make_model(), studies, tmp_path / "out", cluster=Cluster())


@pytest.mark.parametrize(
    ("arguments", "cluster"),
    [
        (["--ray"], Cluster("local", None, "auto")),
        (["--ray", "MODEL"], Cluster("local", None, "auto")),
        (["--ray", "auto", "--workers", "3", "--device", "cpu"], Cluster("auto", 3, "cpu")),
        (["--ray", "node-1:6379"], Cluster("node-1:6379", None, "auto")),
        ([], None),
    ],
)
def test_the_command_line_names_the_cluster(arguments, cluster, saved, studies, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "medgen.inference.cohort.run.convert", lambda *_, **options: seen.append(options["cluster"]) or []
    )
    command = arguments if "MODEL" in arguments else [*arguments, "--no-report", "MODEL"]
    command = [str(saved.folder) if a == "MODEL" else a for a in command]
    result = CliRunner().invoke(app, ["translate", *command, str(studies), str(tmp_path / "out")])
    assert result.exit_code == 0 and seen == [cluster]


def test_workers_without_a_cluster_are_refused(saved, studies, tmp_path):
    result = CliRunner().invoke(app, ["translate", str(saved.folder), str(studies), "out", "--workers", "2"])
    assert isinstance(result.exception, InputError) and "--ray" in str(result.exception)
