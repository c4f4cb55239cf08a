import logging
import warnings

from pydicom import DataElement

from medgen.io.dicom.quiet import quiet_pydicom


def test_values_in_pydicom_warnings_reach_neither_console_nor_log(monkeypatch, caplog):
    log = logging.getLogger("pydicom")
    monkeypatch.setattr(log, "level", log.level)  # restored after the test
    log.setLevel(logging.WARNING)  # also clears the cache of enabled levels
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        DataElement("StudyInstanceUID", "UI", "1.02.patient")
        assert caught and "1.02.patient" in caplog.text  # the check can fail
        caught.clear()
        caplog.clear()
        quiet_pydicom()
        DataElement("StudyInstanceUID", "UI", "1.02.patient")
    assert not caught and not caplog.text
