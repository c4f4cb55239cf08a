"""Further loggers get the scalars of the CSV files, and model folders get a card. The packages are stand-ins."""

import sys
from types import SimpleNamespace

import pytest
from refusal import refused
from small import small_settings, write_cohort

from medgen.io.spreadsheet import read_csv
from medgen.training.loop import train


class Standin:
    """Records the calls of MLflow and of a run of Weights & Biases."""

    def __init__(self):
        self.calls, self.scalars, self.open = [], [], 0

    def start_run(self, run_name):
        self.calls.append(run_name)
        self.open += 1

    init = None

    def log_params(self, params):
        self.params = params

    def log_metric(self, key, value, step):
        self.scalars.append((key, value, step))

    def log(self, values, step):
        self.scalars += [(key, value, step) for key, value in values.items()]

    def end_run(self):
        self.open -= 1

    finish = end_run


def settings(root, **train):
    values = {"steps": 2, "validation_cases": 1, "validate_every": 2, "log_every": 1, "checkpoint_every": 1}
    return small_settings(train={**values, **train}, data={"root": str(root)})


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_logger_gets_every_number_of_the_tables(tmp_path, monkeypatch, name):
    standin = Standin()

    def init(name, dir, config):
        standin.start_run(name)
        standin.params = {"method.name": config["method"]["name"]}
        return standin

    monkeypatch.setitem(sys.modules, name, standin if name == "mlflow" else SimpleNamespace(init=init))
    root = write_cohort(tmp_path / "cohort")
    train(settings(root, loggers=[name]), tmp_path / "myrun", say=lambda _: None)
    assert standin.calls == ["myrun"] and standin.open == 0 and standin.params["method.name"] == "pix2pix"
    wanted = set()
    for table, prefix in (("log.csv", ""), ("validation.csv", "validation/")):
        for row in read_csv(tmp_path / "myrun" / table):
            wanted |= {(prefix + k, int(row["step"])) for k, v in row.items() if v and k not in ("step", "seconds")}
    assert wanted and wanted == {(key, step) for key, _, step in standin.scalars}


def test_a_server_that_is_not_there_or_goes_away(tmp_path, monkeypatch, caplog):
    root = write_cohort(tmp_path / "cohort")
    standin = Standin()

    def fail(*_, **__):
        raise ConnectionError("refused by mlflow.hospital")

    monkeypatch.setitem(sys.modules, "mlflow", standin)
    monkeypatch.setattr(standin, "log_metric", fail)
    train(settings(root, loggers=["mlflow"]), tmp_path / "goes", say=lambda _: None)
    assert caplog.text.count("mlflow gets no more values") == 1 and read_csv(tmp_path / "goes" / "log.csv")
    monkeypatch.setattr(standin, "start_run", fail)
    with refused("logger-not-started", names=("train.loggers=mlflow", "mlflow.hospital")):
        train(settings(root, loggers=["mlflow"]), tmp_path / "gone", say=lambda _: None)


def test_a_missing_package_is_told_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with refused("dependency-missing", names="medgen[wandb]"):
        train(settings(tmp_path, loggers=["wandb"]), tmp_path / "run", say=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_model_folders_get_a_card_and_a_changed_card_stays(tmp_path):
    root = write_cohort(tmp_path / "cohort")
    train(settings(root), tmp_path / "run", say=lambda _: None)
    best, last = tmp_path / "run/best/card.md", tmp_path / "run/last/card.md"
    assert "Steps: 2" in last.read_text() and "mae" in best.read_text()
    best.write_text("# Mine\n")
    train(settings(root, steps=4), tmp_path / "run", resume=True, say=lambda _: None)
    assert best.read_text() == "# Mine\n" and "Steps: 4" in last.read_text()
