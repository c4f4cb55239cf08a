import csv

from medgen.training.log import Log


def read(path):
    return list(csv.DictReader(open(path)))


def test_a_loss_that_appears_later_adds_a_column(tmp_path):
    log = Log(tmp_path, 0)
    log.losses(1, 0.5, {"D": 1.0})
    log.losses(2, 1.0, {"D": 2.0, "G": 3.0})
    log.losses(3, 1.5, {"D": 4.0})
    log.close()
    rows = read(tmp_path / "log.csv")
    assert [r["G"] for r in rows] == ["", "3.0", ""] and [r["D"] for r in rows] == ["1.0", "2.0", "4.0"]


def test_a_log_opened_at_a_step_drops_later_rows(tmp_path):
    log = Log(tmp_path, 0)
    for step in range(1, 5):
        log.losses(step, step / 2, {"D": step} if step % 2 else {"D": step, "G": 0.5})
    log.close()
    with open(tmp_path / "log.csv", "a") as file:
        file.write("5,2.")  # cut short by a kill
    again = Log(tmp_path, 3)
    again.losses(4, 2.0, {"D": 9.0})
    again.close()
    rows = read(tmp_path / "log.csv")
    assert [r["step"] for r in rows] == ["1", "2", "3", "4"] and rows[3]["D"] == "9.0"
    assert rows[1]["G"] == "0.5" and rows[3]["G"] == ""
