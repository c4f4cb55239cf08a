"""Phantom patients that several test files use, drawn once in a process."""

import functools

from medgen.phantom.cohort import make_patient

SIZE, SPACING = (40, 32, 24), 10.0


@functools.cache
def coarse_patient(seed):
    """The whole trunk on a coarse grid; read-only, because tests share it."""
    patient = make_patient(seed, size=SIZE, spacing=SPACING)
    for data in (patient.contrast, patient.noncontrast, patient.labels):
        data.setflags(write=False)
    return patient
