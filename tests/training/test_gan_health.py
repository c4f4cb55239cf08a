import pytest

from medgen.training.gan_health import WINDOW, diagnose

WELL = {
    "D/real_accuracy": 0.7, "D/fake_accuracy": 0.65, "D/saturated": 0.2, "D/diversity": 0.9, "gradient_G": 0.5,
    "D/spread": 0.4, "share_G_gan": 0.3, "share_G_l1": 0.7,
}  # fmt: skip


def rows(**changed):
    return [{"step": n, **WELL, **{k.replace("__", "/"): v for k, v in changed.items()}} for n in range(WINDOW)]


def test_healthy_training_gives_no_diagnosis():
    assert diagnose(rows()) == []
    assert diagnose([]) == []


@pytest.mark.parametrize(
    "changed, problem, remedy",
    [
        (dict(D__real_accuracy=0.99, D__fake_accuracy=0.99), "D is too strong", "method.adversary.lr"),
        (dict(D__real_accuracy=0.1, D__fake_accuracy=0.2), "D is too weak", "critic_steps"),
        (dict(D__diversity=0.01), "collapsed", "earlier checkpoint"),
        (dict(D__real_accuracy=0.5, D__fake_accuracy=0.52), "D is at chance", "adversary_input"),
        (dict(D__real_accuracy=0.9, D__fake_accuracy=0.1), "D is at chance", "weight_gan"),
        (dict(D__spread=1e-5, D__real_accuracy=1.0, D__fake_accuracy=0.0), "D is constant", "spectral_norm"),
        (dict(share_G_gan=0.002), "G_gan hardly counts", "method.weight_gan"),
        (dict(gradient_G=1e-9), "gradients of G have vanished", "objective"),
        (dict(gradient_G=1e6), "gradients of G have exploded", "train.clip"),
    ],
)
def test_each_problem_is_diagnosed_with_a_remedy(changed, problem, remedy):
    (sentence,) = diagnose(rows(**changed))
    assert problem in sentence and remedy in sentence


def test_a_single_outlier_row_gives_no_diagnosis():
    odd = rows()
    odd[3] |= {"D/diversity": 0.0, "gradient_G": 1e9}
    assert diagnose(odd) == []


def test_too_few_rows_give_no_diagnosis():
    assert diagnose(rows(D__diversity=0.0)[:-1]) == []


def test_only_the_last_rows_are_used():
    assert diagnose(rows(D__diversity=0.0) + rows()) == []


def test_a_small_regulariser_is_no_problem():
    assert diagnose(rows(share_G_smooth=0.0001)) == []
