import pytest

from medgen.training.gan_health import WINDOW, diagnose

WELL = {
    "D/real_accuracy": 0.7, "D/fake_accuracy": 0.65, "D/saturated": 0.2, "D/diversity": 0.9, "gradient_G": 0.5
}  # fmt: skip


def rows(**changed):
    return [{"step": n, **WELL, **{k.replace("__", "/"): v for k, v in changed.items()}} for n in range(WINDOW)]


def test_a_well_training_is_left_alone():
    assert diagnose(rows()) == []
    assert diagnose([]) == []


@pytest.mark.parametrize(
    "changed, said, cure",
    [
        (dict(D__real_accuracy=0.99, D__fake_accuracy=0.99), "D is too strong", "method.adversary.lr"),
        (dict(D__real_accuracy=0.1, D__fake_accuracy=0.2), "D is too weak", "critic_steps"),
        (dict(D__diversity=0.01), "collapsed", "earlier checkpoint"),
        (dict(gradient_G=1e-9), "gradients of G have vanished", "objective"),
        (dict(gradient_G=1e6), "gradients of G have exploded", "train.clip"),
    ],
)
def test_each_fault_is_named_with_its_cure(changed, said, cure):
    (sentence,) = diagnose(rows(**changed))
    assert said in sentence and cure in sentence


def test_one_odd_row_decides_nothing():
    odd = rows()
    odd[3] |= {"D/diversity": 0.0, "gradient_G": 1e9}
    assert diagnose(odd) == []


def test_too_few_rows_decide_nothing():
    assert diagnose(rows(D__diversity=0.0)[:-1]) == []


def test_only_the_last_rows_count():
    assert diagnose(rows(D__diversity=0.0) + rows()) == []
