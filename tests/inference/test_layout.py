import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices

from medgen.inference.layout import AROUND, bounding_box, even, fixed

SIDES = st.tuples(*[st.integers(1, 90)] * 3)
OVERLAPS = st.sampled_from([0.0, 0.25, 0.4, 0.5, 0.8])


@settings(max_examples=50, deadline=None)
@given(sides=SIDES, window=st.tuples(*[st.integers(2, 40)] * 3), overlap=OVERLAPS)
def test_fixed_places_are_monais(sides, window, overlap):
    layout = fixed(sides, window, overlap)
    padded = tuple(max(n, w) for n, w in zip(sides, window, strict=True))
    steps = [w if w == n else max(int(w * (1 - overlap)), 1) for w, n in zip(window, padded, strict=True)]
    assert layout.sides == padded and layout.places == [tuple(p) for p in dense_patch_slices(padded, window, steps)]


@settings(max_examples=50, deadline=None)
@given(sides=SIDES, overlap=OVERLAPS)
def test_even_windows_cover_a_volume_with_fewer_voxels_than_fixed_ones(sides, overlap):
    layout, one = even(sides, (16, 16, 16), overlap, 4), fixed(sides, (16, 16, 16), overlap)
    for axis in range(3):
        starts = sorted({place[axis].start for place in layout.places})
        size = layout.window[axis]
        assert size in (16, 20) and starts[0] == 0 and starts[-1] + size == layout.sides[axis]
        steps = [b - a for a, b in zip(starts, starts[1:], strict=False)]
        assert max(steps, default=0) - min(steps, default=0) <= 1 and max(steps, default=0) < size * (1 - overlap) + 1
        before = len({place[axis].start for place in one.places})
        assert len(starts) * size <= before * 16


def test_windows_of_equal_work_are_those_of_the_setting():
    assert even((80, 80, 80), (80, 80, 80), 0.25, 16).window == (80, 80, 80)
    assert even((160, 100, 300), (80, 80, 80), 0.25, 16).window == (96, 112, 96)
    assert even((160, 100, 300), (80, 80, 80), 0.25, 16, wider=1.0).window == (80, 80, 80)


@settings(max_examples=50, deadline=None)
@given(sides=st.tuples(*[st.integers(30, 90)] * 3), points=st.lists(st.tuples(*[st.integers(0, 29)] * 3), max_size=3))
def test_needed_voxels_lie_in_windows_with_context_and_no_window_is_without_them(sides, points):
    needed = torch.zeros(sides, dtype=torch.bool)
    for point in points:
        needed[point] = True
    layout = even(sides, (16, 16, 16), 0.25, 4, needed=needed)
    seen = torch.zeros(layout.sides, dtype=torch.bool)
    for place in layout.places:
        seen[place] = True
        assert needed[place].any() or not points
        assert all(0 <= part.start and part.stop <= n for part, n in zip(place, layout.sides, strict=True))
    assert seen[: sides[0], : sides[1], : sides[2]][needed].all()
    for axis, part in enumerate(bounding_box(needed, AROUND)) if points else ():
        places = [point[axis] for point in points]
        assert part == slice(max(min(places) - AROUND, 0), min(max(places) + AROUND + 1, sides[axis]))
