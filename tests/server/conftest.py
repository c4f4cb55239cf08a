import pytest
from serving import LOCAL
from small import make_model

from medgen.checkpoint import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    made = make_model()
    save_model(folder, made.generator, made.info)
    return folder


@pytest.fixture
def served(model, tmp_path):
    """A client of a new server. ``served(limits, access)``."""
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    from medgen.server.app import Access, build_app
    from medgen.server.jobs import Jobs
    from medgen.server.uploads import Limits

    opened = []

    def start(limits=None, access=None, base=LOCAL, names=("tiny",), ending=lambda: False):
        (tmp_path / "work").mkdir(exist_ok=True)
        jobs = Jobs(dict.fromkeys(names, model), tmp_path / "work", limits or Limits(), qa_limits="general")
        client = TestClient(build_app(jobs, access or Access(), {"tiny": "A model"}, ending), base_url=base)
        opened.append(client.__enter__())
        client.jobs = jobs
        return client

    yield start
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def quick(monkeypatch):
    """Without reports, which take a second each."""
    monkeypatch.setattr("medgen.server.jobs.conversion_report", lambda *_, **__: None)
