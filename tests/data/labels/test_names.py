from medgen.data.labels.names import label_named


def test_case_does_not_matter_unless_it_is_all_that_differs():
    assert label_named("liver", ["Liver", "LESION"]) == "Liver" and label_named("Lesion", {"LESION": 1}) == "LESION"
    assert label_named("liver", ["Liver", "liver"]) == "liver" and label_named("LIVER", ["Liver", "liver"]) is None
    assert label_named("kidney", ["liver"]) is None
