"""Splits by patient, drawn, stated or recorded: no patient and no synthetic case of a patient is in two subsets."""

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused

from medgen.data.cohort.split import load_split, save_split, split_cases, stated_folds, with_stated_fold
from medgen.types import Case


def pair(name, patient=None, source=True, target=True):
    return Case(name, patient or name, ("s",) if source else (), ("t",) if target else ())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from([(1, 1), (1, 0), (0, 1)])), min_size=1, max_size=40),
    st.floats(0, 0.6),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_no_patient_is_in_two_subsets_and_order_does_not_matter(drawn, validation, seed, random):
    cases = [pair(f"c{i:02}", f"p{p}", *sides) for i, (p, sides) in enumerate(drawn)]
    split = split_cases(cases, validation=validation, test=0.0, seed=seed)
    assert sorted(c.name for part in split.values() for c in part) == [c.name for c in cases]
    patients = {part: {c.patient for c in found} for part, found in split.items()}
    assert not patients["train"] & patients["validation"] and not patients["test"]
    assert split["train"]
    for side in ("source", "target"):  # training keeps cases of each side
        if any(getattr(c, side) for c in cases):
            assert any(getattr(c, side) for c in split["train"])
    shuffled = random.sample(cases, len(cases))
    assert split_cases(shuffled, validation=validation, test=0.0, seed=seed) == split


def test_subset_sizes_and_sides():
    cases = [pair(f"p{i}") for i in range(40)]
    split = split_cases(cases, validation=0.15, test=0.25, seed=0)
    assert [len(split[k]) for k in ("train", "validation", "test")] == [24, 6, 10]
    assert split != split_cases(cases, validation=0.15, test=0.25, seed=1)
    unpaired = [pair(f"s{i}", target=False) for i in range(8)] + [pair(f"t{i}", source=False) for i in range(8)]
    split = split_cases(unpaired, validation=0.1, test=0.1, seed=0)
    for part, count in (("train", 6), ("validation", 1), ("test", 1)):
        assert sum(bool(c.source) for c in split[part]) == sum(bool(c.target) for c in split[part]) == count


def test_splits_of_few_patients():
    two = split_cases([pair("a"), pair("b")], validation=0.01, test=0, seed=0)
    assert len(two["train"]) == len(two["validation"]) == 1
    assert split_cases([pair("a"), pair("b")], validation=0, test=0, seed=0)["validation"] == []
    one = split_cases([pair("a")], validation=0.2, test=0, seed=0)
    assert [c.name for c in one["train"]] == ["a"] and not one["validation"]
    # one pair and one extra source: only the extra source can be held out
    mixed = split_cases([pair("a"), pair("b", target=False)], validation=0.2, test=0, seed=0)
    assert [c.name for c in mixed["validation"]] == ["b"]
    # one source, one target: neither can be held out
    assert not split_cases([pair("a", target=False), pair("b", source=False)], validation=0.5, test=0, seed=0)[
        "validation"
    ]


def test_impossible_splits():
    for validation, test in ((0.5, 0.5), (1.0, 0), (-0.1, 0), (0, float("nan"))):
        with refused("config-split-fractions"):
            split_cases([pair("a")], validation=validation, test=test, seed=0)
    with refused("cohort-empty"):
        split_cases([], validation=0.1, test=0, seed=0)
    with refused("split-too-few-patients"):
        split_cases([pair("a"), pair("b")], validation=0.1, test=0.1, seed=0)


def test_a_recorded_split_is_restored(tmp_path):
    cases = [pair(f"c{i}", f"p{i // 2}") for i in range(12)]
    split = split_cases(cases, validation=0.2, test=0.2, seed=3)
    save_split(tmp_path / "run/split.json", split)
    assert load_split(tmp_path / "run/split.json", cases[::-1]) == split
    assert load_split(tmp_path / "run/split.json", [*cases, pair("new")]) == split
    with refused("split-case-unknown", names="c1"):
        load_split(tmp_path / "run/split.json", [c for c in cases if c.name != "c1"])
    for content, code, names in (
        ('{"train": ["c0"], "validation": ["c1"]}', "split-patient-in-both", "patient p0"),
        ('{"train": 3}', "split-file-form", "bad.json"),
        ('{"training": ["c0"]}', "split-file-form", "bad.json"),
        ("x", "json-unreadable", "bad.json"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with refused(code, names=names):
            load_split(tmp_path / "bad.json", cases)


# Stated subsets and synthetic cases ------------------------------------------------------------------------


def stated(name, part, patient=None, made_of=()):
    return Case(name, patient or name, (Path("s"),), (Path("t"),), part=part, made_of=frozenset(made_of))


patients = st.integers(0, 7).map("p{}".format)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(patients, st.sampled_from(["", "train", "validation", "test"]), min_size=3),
    st.lists(st.tuples(patients, st.lists(patients, max_size=3)), max_size=12),
    st.sampled_from([0.0, 0.3]),
    st.integers(0, 3),
)
def test_stated_subsets_are_kept_and_synthetic_cases_of_held_out_patients_are_not_trained_on(parts, made, share, seed):
    cases = [stated(f"r{i}_{p}", part, p) for p, part in parts.items() for i in range(2)]
    cases += [stated(f"s{i}", "", own, {own, *donors}) for i, (own, donors) in enumerate(made)]
    split = split_cases(cases, validation=share, test=0.0, seed=seed)
    for case in cases:
        if case.part in ("validation", "test"):
            assert case in split[case.part]
        if case.part == "train":
            assert case not in split["test"] and (case in split["train"] or "validation" not in parts.values())
    real = {part: {c.patient for c in found if not c.synthetic} for part, found in split.items()}
    assert not real["train"] & (real["validation"] | real["test"]) and not real["validation"] & real["test"]
    for case in (case for case in cases if case.synthetic):
        apart = (real["validation"] | real["test"]) & (case.made_of | {case.patient})
        assert (case in split["train"]) == (not apart)
        held = [part for part in ("validation", "test") if case.patient in real[part]]
        assert [part for part in ("validation", "test") if case in split[part]] == held


def test_a_patient_in_two_lists_is_refused_by_name():
    cases = [stated("a1", "train", "p"), stated("a2", "validation", "p")]
    with refused("split-patient-in-both", names=("L.json", "case a1")):
        split_cases(cases, validation=0.1, test=0, seed=0, where="L.json")


def test_a_recorded_split_of_synthetic_cases_is_restored_and_a_leak_is_refused(tmp_path):
    cases = [stated("a", ""), stated("b", ""), stated("a__syn000", "", "a", "ab"), stated("b__syn000", "", "b", "b")]
    split = {"train": [cases[0]], "validation": [cases[1], cases[3]], "test": []}
    save_split(tmp_path / "split.json", split)
    assert load_split(tmp_path / "split.json", cases) == split
    save_split(tmp_path / "split.json", {"train": [cases[0], cases[2]], "validation": [cases[1]]})
    with refused("split-patient-in-both", names="patient b "):
        load_split(tmp_path / "split.json", cases)


FOLDS = [{"train": ["b", "c"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}]


def test_folds_of_nnunet_and_of_medgen_decathlon_lists(tmp_path):
    assert stated_folds(tmp_path) is None
    for i, fold in enumerate(FOLDS):
        lists = {
            key: [{"image": f"./imagesTr/{n}.nii.gz"} for n in fold[part]]
            for key, part in (("training", "train"), ("validation", "val"))
        }
        (tmp_path / f"datalist_fold{i}.json").write_text(json.dumps(lists))
    assert stated_folds(tmp_path) == (tmp_path / "datalist_fold0.json", FOLDS)
    (tmp_path / "splits_final.json").write_text(json.dumps(FOLDS))
    assert stated_folds(tmp_path) == (tmp_path / "splits_final.json", FOLDS)
    files = [{part: [f"{name}.nii.gz" for name in names] for part, names in fold.items()} for fold in FOLDS]
    (tmp_path / "splits_final.json").write_text(json.dumps(files))
    assert stated_folds(tmp_path) == (tmp_path / "splits_final.json", FOLDS)
    for content, code in (
        ('{"0": {}}', "json-wrong-type"),
        ('[{"train": ["a", "b"], "val": ["b"]}]', "split-case-in-both"),
        ("[]", "split-folds-form"),
        ("{}", "json-wrong-type"),
        ('[{"train": ["a"]}]', "split-folds-form"),
        ('[{"train": [1], "val": ["a"]}]', "split-folds-form"),
    ):
        (tmp_path / "splits_final.json").write_text(content)
        with refused(code, names="splits_final.json"):
            stated_folds(tmp_path)


def test_a_stated_fold_sets_subsets_and_excludes_cases_it_does_not_name():
    cases = [stated("a", ""), stated("b", ""), stated("c", ""), stated("t", "test")]
    kept, warnings = with_stated_fold(cases, Path("splits_final.json"), FOLDS, 1)
    assert {case.name: case.part for case in kept} == {"a": "train", "b": "validation", "t": "test"}
    assert warnings == ["splits_final.json does not name c in fold 1; they are excluded"]
    gone = [{"train": ["a", "x"], "val": ["b", "y"]}]
    assert with_stated_fold(cases[:2], Path("splits_final.json"), gone, 0)[1] == [
        "splits_final.json names x, y in fold 0, but they are not in the cohort"
    ]
    for fold, code, name in ((2, "split-fold-unknown", "0 to 1"), (0, "split-fold-empty", "fold 0")):
        with refused(code, names=("splits_final.json", name)):
            with_stated_fold(cases[:1], Path("splits_final.json"), FOLDS, fold)


def test_a_split_file_that_states_a_patient_in_two_subsets_is_refused(tmp_path):
    """Also where the names of the cases do not show that they are one patient."""
    content = {"train": {"c0": "P2"}, "validation": {"c1": "P2"}, "test": {}}
    (tmp_path / "split.json").write_text(json.dumps(content))
    with refused("split-patient-in-both", names="P2"):
        load_split(tmp_path / "split.json", [pair("c0"), pair("c1")])
