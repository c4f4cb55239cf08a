"""Choice of the stored values of a derived series."""

import numpy as np

from medgen.io.dicom.pixels import Format, encoding


def test_steps_of_more_than_one_hu_are_not_kept_for_values_between_them():
    """8 bits with a slope of 16 hold a localizer, but not the translation of one."""
    source = np.arange(-1024, 3056, 16, dtype=np.float32)[:255].reshape(5, 51, 1)
    given = [Format(8, 8, False)], [(16.0, -1024.0)]
    assert encoding(source, True, *given).rescale == ((16.0, -1024.0),)
    slope, _ = encoding(source + 5, True, *given).rescale[0]
    assert slope == 1
