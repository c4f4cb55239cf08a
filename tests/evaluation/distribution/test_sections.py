import json

import nibabel as nib
import numpy as np
import pytest
from evaluating import evaluate
from patients import coarse_patient
from refusal import refused

from medgen.evaluation.distribution.sections import RELATIVE, default_window, distribution_section, volume_files
from medgen.evaluation.features.named import named_extractor
from medgen.evaluation.features.radiomics import Radiomics
from medgen.io.read import read_volume


class Means:
    """The mean and deviation of each half of the body, as an extractor."""

    name, weights, preprocessing, standard, standardised = "means", "none", "halves", False, False

    def __call__(self, volume, spacing, *, mask=None):
        halves = np.array_split(volume[mask], 2)
        return np.array([[half.mean(), half.std()] for half in halves])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Truth, source and prediction of four patients, and the truth of six others."""
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(10):
        patient = coarse_patient(seed)
        volumes = {"real": patient.noncontrast}
        if seed < 4:
            mixed = 0.8 * patient.noncontrast + 0.2 * patient.contrast
            volumes = {"target": patient.noncontrast, "source": patient.contrast, "converted": mixed}
        for name, data in volumes.items():
            (folder / name).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(data.astype(np.float32), patient.affine), folder / name / f"p{seed}.nii.gz")
    return folder


def test_distribution_against_a_real_cohort_with_the_source_as_baseline(cohort, tmp_path):
    found = evaluate(
        cohort / "target",
        cohort / "converted",
        tmp_path,
        source=cohort / "source",
        real_cohort=cohort / "real",
        extractor=Means(),
    )
    rows = {row["metric"]: row for row in json.loads((tmp_path / "summary.json").read_text())["distribution"]}
    frechet = rows["Fréchet distance (means, weights none)"]
    assert 0 <= frechet["value"] < frechet["source_value"]
    assert (frechet["reference_volumes"], frechet["prediction_volumes"], frechet["prediction_rows"]) == (6, 4, 8)
    assert not found.failures and not any("same patients" in note for note in frechet["notes"])


def test_features_of_real_volumes_are_kept_for_the_next_system(cohort, tmp_path):
    class Counting(Means):
        calls = 0

        def __call__(self, *args, **options):
            self.calls += 1
            return super().__call__(*args, **options)

    def rows(extractor):
        files = [volume_files(cohort / name) for name in ("real", "converted")]
        return distribution_section(
            *files, [], extractor, same_patients=False, failures=[], cache=tmp_path / "features"
        )

    first, second, other = Counting(), Counting(), Counting()
    other.preprocessing = "thirds"
    assert rows(first) == rows(second) and (first.calls, second.calls) == (10, 4)
    rows(other)
    assert other.calls == 10 and len(list((tmp_path / "features").iterdir())) == 2


def test_without_a_real_cohort_the_reference_is_used_with_a_note(cohort, tmp_path):
    found = evaluate(cohort / "target", cohort / "converted", tmp_path, extractor=Means())
    row = found.sections["distribution"][0]
    assert row["source_value"] is None and any("same patients" in note for note in row["notes"])


def test_generated_volumes_are_compared_with_real_ones_and_copies_are_found(cohort, tmp_path):
    found = evaluate(None, cohort / "target", tmp_path, real_cohort=cohort / "real", training_images=cohort / "real")
    assert not found.sections["memorisation"]["flagged"] and not found.failures
    assert "6 real volumes excluded" in found.sections["memorisation"]["note"]
    copies, same = tmp_path / "copies", tmp_path / "same"
    copies.mkdir()
    same.mkdir()
    for path in sorted((cohort / "real").iterdir())[:3]:
        (same / f"new_{path.name}").write_bytes(path.read_bytes())
    section = evaluate(
        None, same, tmp_path / "o", real_cohort=cohort / "real", training_images=cohort / "real"
    ).sections["memorisation"]
    assert section["flagged"] and [pair["flagged"] for pair in section["closest"]] == [True] * 3
    for path in sorted((cohort / "real").iterdir())[:4]:
        image = nib.load(path)
        noisy = image.get_fdata() + np.random.default_rng(0).normal(0, 10, image.shape)
        nib.save(nib.Nifti1Image(noisy.astype(np.float32), image.affine), copies / f"new_{path.name}")
    section = evaluate(
        None, copies, tmp_path / "out", real_cohort=cohort / "target", training_images=cohort / "real"
    ).sections["memorisation"]
    first = section["closest"][0]
    assert section["flagged"] and first["synthetic"] == f"new_{first['training']}"


def test_what_cannot_be_measured_of_the_set_is_a_failure_and_the_rest_is_written(cohort, tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    (one / "p0.nii.gz").write_bytes((cohort / "real" / "p4.nii.gz").read_bytes())
    (one / "broken.nii.gz").write_bytes(b"no volume")
    found = evaluate(
        cohort / "target", cohort / "converted", tmp_path / "out", real_cohort=cohort / "real", training_images=one
    )
    assert [failure.case for failure in found.failures] == ["broken", "memorisation"]
    assert "4 training volumes" in found.failures[1].error and len(found.cases) == 4
    with refused("evaluation-real-volumes-needed"):
        evaluate(None, cohort / "converted", tmp_path / "x", source=cohort / "source", extractor=Means())


def test_hu_are_measured_in_a_fixed_window(cohort, tmp_path):
    """60 HU too bright is seen, unless each volume is normalised by itself; then every number says so."""
    files = volume_files(cohort / "real")[:3]
    window = default_window(files)
    assert window == (-200, 300)
    fixed, relative = (Radiomics(window=w, patches=1, workers=1) for w in (window, None))
    volume = read_volume(files[0])
    mask = volume.data > -200
    for extractor, sees in ((fixed, True), (relative, False)):
        rows = [extractor(volume.data + offset, volume.spacing, mask=mask) for offset in (0, 60)]
        assert np.allclose(*rows, atol=1e-3) is not sees
        numbers = distribution_section(files, files, [], extractor, same_patients=False, failures=[])
        assert all((RELATIVE in row["notes"]) is not sees for row in numbers)
        assert all(any(note.startswith("3 of 3 predictions have exactly") for note in row["notes"]) for row in numbers)
        others = distribution_section(files[:2], files[1:], [], extractor, same_patients=False, failures=[])
        assert any(note.startswith("1 of 2 predictions have") for note in others[0]["notes"])
        assert ("-200 to 300" in numbers[0]["preprocessing"]) is sees
    nib.save(nib.Nifti1Image(np.full((8, 8, 8), 7.0, np.float32), np.eye(4)), tmp_path / "mr.nii.gz")
    assert default_window([tmp_path / "mr.nii.gz"]) is None


def test_extractors_by_name(tmp_path):
    assert "-200" in named_extractor("radiomics", window=(-200, 300)).preprocessing
    for text in ("radimagenet", "nonsense", "radiomics:file"):
        with refused("extractor-unknown"):
            named_extractor(text)
    with refused("weights-unreadable", names="missing.pt"):
        named_extractor(f"medicalnet:{tmp_path / 'missing.pt'}")
    with refused("folder-no-volumes"):
        volume_files(tmp_path)
