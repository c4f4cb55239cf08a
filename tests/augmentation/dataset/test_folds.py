"""No real or synthetic image of a patient is in the training part of the fold that validates the patient."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused

from medgen.augmentation.dataset.folds import in_no_fold, patient_folds
from medgen.augmentation.dataset.read import LabelledCase


def real(name, patient):
    return LabelledCase(name, patient, (), None)


def synthetic(name, patient, donors=()):
    record = {"patient": patient, "operations": [{"operation": "paste", "patients": list(donors)}]}
    return LabelledCase(name, patient, (), None, record=record)


NNUNET_2_8_1 = [["c00", "c03", "c08"], ["c07", "c10", "c11"], ["c06", "c09"], ["c01", "c04"], ["c02", "c05"]]
patients = st.integers(0, 9).map("p{}".format)


@given(
    st.lists(patients, min_size=2, max_size=25).filter(lambda owners: len(set(owners)) > 1),
    st.lists(st.tuples(patients, st.lists(patients, max_size=3)), max_size=25),
)
def test_patients_stay_apart(owners, made):
    cases = [real(f"r{i}", owner) for i, owner in enumerate(owners)]
    cases += [synthetic(f"s{i}", owner, donors) for i, (owner, donors) in enumerate(made)]
    by_name = {case.name: case for case in cases}
    folds = patient_folds(cases)
    assert len(folds) == min(5, len(set(owners)))
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(c.name for c in cases if c.record is None)
    for fold in folds:
        held = {by_name[name].patient for name in fold["val"]}
        assert held and not any(by_name[name].record for name in fold["val"])
        # exactly the cases without images of held-out patients
        shown = {c.name for c in cases if not ({c.patient} | donors_of(c)) & held}
        assert fold["train"] == sorted(shown) and fold["val"] == sorted(fold["val"])


def donors_of(case):
    return {p for step in (case.record or {}).get("operations", []) for p in step["patients"]}


def test_real_cases_fall_into_the_folds_that_nnunet_draws_itself():
    """Folds of scikit-learn's KFold(5, shuffle=True, random_state=12345) on 12 sorted names, as in nnU-Net."""
    folds = patient_folds([real(f"c{i:02d}", f"c{i:02d}") for i in range(12)])
    assert [fold["val"] for fold in folds] == NNUNET_2_8_1


def test_one_patient_cannot_be_validated():
    with refused("dataset-too-few-patients"):
        patient_folds([real("a", "p"), real("b", "p"), synthetic("a__syn000", "p")])
    with refused("dataset-too-few-patients"):
        patient_folds([])
    assert [sorted(f["val"]) for f in patient_folds([real("a", "p"), real("b", "q")])] in (
        [["a"], ["b"]],
        [["b"], ["a"]],
    )


def test_the_order_of_the_cases_does_not_matter():
    cases = [real(f"c{i}", f"p{i // 2}") for i in range(14)]
    shuffled = [cases[i] for i in np.random.default_rng(0).permutation(14)]
    assert patient_folds(cases) == patient_folds(shuffled)


# Folds that the dataset states ---------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=12),
    st.lists(st.tuples(st.integers(0, 11), st.lists(st.integers(0, 11), max_size=2)), max_size=10),
)
def test_stated_folds_are_kept_and_twins_follow(fold_of, made):
    n = len(fold_of)
    cases = [real(f"r{i}", f"p{i}") for i in range(n)]
    cases += [synthetic(f"s{i}", f"p{p % n}", [f"p{d % n}" for d in donors]) for i, (p, donors) in enumerate(made)]
    stated = [
        {
            "train": [f"r{i}" for i in range(n) if fold_of[i] != fold],
            "val": [f"r{i}" for i in range(n) if fold_of[i] == fold],
        }
        for fold in range(4)
    ]
    usable = [fold for fold in stated if fold["train"] and fold["val"]]
    if not usable:
        with refused("dataset-folds-empty"):
            patient_folds(cases, stated)
        return
    found = patient_folds(cases, stated)
    assert [fold["val"] for fold in found] == [sorted(fold["val"]) for fold in usable]
    for fold in found:
        held = {name.replace("r", "p") for name in fold["val"]}
        assert all(name in fold["train"] or name in fold["val"] for name in (c.name for c in cases if not c.record))
        shown = {c.name for c in cases if c.record and not c.patients & held}
        assert {name for name in fold["train"] if name.startswith("s")} == shown
    unused = {c.name for c in cases if all(c.name not in fold["train"] + fold["val"] for fold in found)}
    assert set(in_no_fold(cases, found)) == unused


def test_a_stated_fold_that_splits_a_patient_is_refused():
    cases = [real("a1", "p"), real("a2", "p"), real("b", "q")]
    with refused("split-patient-in-both", names=("case a2", "case a1")):
        patient_folds(cases, [{"train": ["a2", "b"], "val": ["a1"]}])


def test_a_twin_of_who_is_in_no_list_is_not_trained_on():
    cases = [real("a", "a"), real("b", "b"), real("c", "c"), synthetic("c__syn000", "c")]
    (fold,) = patient_folds(cases, [{"train": ["a"], "val": ["b"]}])
    assert fold == {"train": ["a"], "val": ["b"]} and in_no_fold(cases, [fold]) == ["c", "c__syn000"]
