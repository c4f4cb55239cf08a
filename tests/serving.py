"""What the tests of medgen serve send and wait for."""

import io
import time
import zipfile

import nibabel as nib
import numpy as np

LOCAL = "http://127.0.0.1:8000"


def scan(path, shape=(14, 12, 10)):
    data = np.rint(np.random.default_rng(2).normal(40, 200, shape)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([-2, 2, 3, 1.0])), path)
    return path


def finished(client, answer):
    """The state of a job at its end."""
    assert answer.status_code == 202, answer.text
    return ended(client, f"/api/jobs/{answer.json()['id']}")


def ended(client, place):
    for _ in range(1000):
        state = client.get(place).json()
        if state["state"] in ("done", "failed"):
            return state
        time.sleep(0.01)
    raise AssertionError(state)


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()
