"""Detect GAN training problems in the log, and say what to change."""

from statistics import median

WINDOW = 20  # last rows of the log that are evaluated

SURE = 0.97  # the discriminator dominates above this accuracy on real and on fake
CHANCE = 0.05  # D guesses if the mean of its accuracies on real and fake is this close to one half
CONSTANT = 1e-3  # standard deviation of logits below which D gives the same answer for everything
SMALL_SHARE = 0.01  # of the generator's loss: a smaller term has no effect
REGULARISERS = {"share_G_smooth"}  # terms that are small where they do their work: the field of reggan is smooth
BLIND = 0.30  # the discriminator fails below this accuracy on both
SATURATED = 0.9  # fraction of saturated logits
COLLAPSED = 0.1  # diversity of outputs relative to that of real images
VANISHED, EXPLODED = 1e-6, 1e3  # limits of the gradient norm


def diagnose(rows: list[dict[str, float]]) -> list[str]:
    """Describe the problems in the last rows of a log. Uses medians over 20 rows, so that one odd batch has no effect.

    Args:
        rows: in order. Evaluated columns: for a discriminator D ``D/real_accuracy``, ``D/fake_accuracy``,
            ``D/saturated``, ``D/spread`` and ``D/diversity`` (see ``losses.adversary``), the gradient norms
            ``gradient_G``, ..., and the shares ``share_G_gan``, ... of the terms in the generator's loss.

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
        if medians.get(f"{name}/spread", 1.0) < CONSTANT:
            problems.append(
                f"{name} is constant: its logits have a standard deviation of {medians[f'{name}/spread']:.1g}, so the "
                "generator learns nothing from it; lower method.adversary.lr, or set method.adversary.norm or "
                "method.adversary.spectral_norm"
            )
        elif abs((real + fake) / 2 - 0.5) < CHANCE:
            problems.append(
                f"{name} is at chance: it recognises {real:.0%} of real and {fake:.0%} of translated patches. If the "
                "translations are not yet like real images, it does not see the difference, and training is a "
                "regression; show it the difference (method.adversary_input: difference, pix2pix), narrow the "
                "intensity window, or raise method.adversary.lr; or set method.weight_gan to 0"
            )
        if real < BLIND and fake < BLIND:
            problems.append(
                f"{name} is too weak: it recognises {real:.0%} of real and {fake:.0%} of translated patches; raise "
                "method.adversary.lr or method.adversary.filters, or set method.adversary.critic_steps to 2 or more"
            )
    for key, value in medians.items():
        if key.startswith("share_") and key not in REGULARISERS and value < SMALL_SHARE:
            term = key.removeprefix("share_")
            weight = f"method.weight_{term.removeprefix('G_').removeprefix('F_')}"
            problems.append(
                f"{term} hardly counts: it is {value:.1%} of the generator's loss; raise {weight}, or set it to 0"
            )
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
