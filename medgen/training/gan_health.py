"""Detect GAN training problems in the log, and say what to change."""

from statistics import median

WINDOW = 20  # last rows of the log that are evaluated

SURE = 0.97  # the discriminator dominates above this accuracy on real and on fake
BLIND = 0.30  # the discriminator fails below this accuracy on both
SATURATED = 0.9  # fraction of saturated logits
COLLAPSED = 0.1  # diversity of outputs relative to that of real images
VANISHED, EXPLODED = 1e-6, 1e3  # limits of the gradient norm


def diagnose(rows: list[dict[str, float]]) -> list[str]:
    """Describe the problems in the last rows of a log. Uses medians over 20 rows, so that one odd batch has no effect.

    Args:
        rows: in order. Evaluated columns: for a discriminator D ``D/real_accuracy``, ``D/fake_accuracy``,
            ``D/saturated`` and ``D/diversity`` (see ``losses.adversary``), and the gradient norms ``gradient_G``, ...

    Returns:
        One sentence per problem; the text before its colon contains no numbers and so identifies the problem. Empty
        without problems, or with fewer than 20 rows.
    """
    recent = rows[-WINDOW:]
    if len(recent) < WINDOW:
        return []
    medians = {k: median(row[k] for row in recent) for k in recent[-1] if all(k in row for row in recent)}
    problems = []
    for name in [k.partition("/")[0] for k in medians if k.endswith("/real_accuracy")]:
        real, fake = medians[f"{name}/real_accuracy"], medians[f"{name}/fake_accuracy"]
        saturated, diversity = medians[f"{name}/saturated"], medians[f"{name}/diversity"]
        if diversity < COLLAPSED:
            problems.append(
                f"the generator has collapsed: outputs seen by {name} have {diversity:.0%} of the diversity of real "
                "images; return to an earlier checkpoint, lower method.lr or method.weight_gan, or set "
                "method.adversary.r1"
            )
        if real > SURE and fake > SURE:
            also = " and its logits are saturated" if saturated > SATURATED else ""
            problems.append(
                f"{name} is too strong: it recognises {real:.0%} of real and {fake:.0%} of translated patches{also}, "
                "so the generator learns little from it; lower method.adversary.lr, or set method.adversary.r1, "
                "method.adversary.label_smoothing or method.adversary.augment"
            )
        if real < BLIND and fake < BLIND:
            problems.append(
                f"{name} is too weak: it recognises {real:.0%} of real and {fake:.0%} of translated patches; raise "
                "method.adversary.lr or method.adversary.filters, or set method.adversary.critic_steps to 2 or more"
            )
    for key, value in medians.items():
        if key.startswith("gradient_") and not VANISHED < value < EXPLODED:
            problem = "vanished" if value <= VANISHED else "exploded"
            remedy = (
                "raise method.weight_gan or change method.adversary.objective"
                if value <= VANISHED
                else "set train.clip"
            )
            network = key.removeprefix("gradient_")
            problems.append(f"the gradients of {network} have {problem}: norm {value:.2g}; {remedy}")
    return problems
