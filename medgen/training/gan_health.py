"""Whether a GAN's training is well: signs in the log → sentences that say what is wrong and what to change."""

from statistics import median

WINDOW = 20  # rows of the log that a verdict looks back on

SURE = 0.97  # accuracy on real and on fake beyond which D has won
BLIND = 0.30  # below which D has lost
SATURATED = 0.9
COLLAPSED = 0.1  # diversity of outputs as a part of that of real images
VANISHED, EXPLODED = 1e-6, 1e3  # gradient norms


def diagnose(rows: list[dict[str, float]]) -> list[str]:
    """Sentences about the last rows of a log; none when all is well or too little is known.

    Args:
        rows: in order; of a discriminator called D the columns ``D/real_accuracy``, ``D/fake_accuracy``,
            ``D/saturated``, ``D/diversity`` (see ``losses.adversary``), and gradient norms ``gradient_G``, ...
            A median over the last 20 rows decides, so that one odd batch does not.
    """
    recent = rows[-WINDOW:]
    if len(recent) < WINDOW:
        return []
    seen = {k: median(row[k] for row in recent) for k in recent[-1] if all(k in row for row in recent)}
    found = []
    for name in [k.partition("/")[0] for k in seen if k.endswith("/real_accuracy")]:
        real, fake = seen[f"{name}/real_accuracy"], seen[f"{name}/fake_accuracy"]
        saturated, diversity = seen[f"{name}/saturated"], seen[f"{name}/diversity"]
        if diversity < COLLAPSED:
            found.append(
                f"the generator has collapsed: outputs judged by {name} differ {diversity:.0%} as much as real images; "
                "go back to an earlier checkpoint, lower method.lr or method.weight_gan, or add method.adversary.r1"
            )
        if real > SURE and fake > SURE:
            also = " and its logits are saturated" if saturated > SATURATED else ""
            found.append(
                f"{name} has won: it tells {real:.0%} of real and {fake:.0%} of translated patches{also}, so the "
                "generator learns little from it; lower method.adversary.lr, or set "
                "method.adversary.r1, label_smoothing or augment"
            )
        if real < BLIND and fake < BLIND:
            found.append(
                f"{name} has lost: it tells {real:.0%} of real and {fake:.0%} of translated patches; raise "
                "method.adversary.lr or method.adversary.filters, or set method.adversary.critic_steps to 2 or more"
            )
    for key, value in seen.items():
        if key.startswith("gradient_") and not VANISHED < value < EXPLODED:
            what = "vanished" if value <= VANISHED else "exploded"
            cure = (
                "raise method.weight_gan or change method.adversary.objective"
                if value <= VANISHED
                else "set train.clip"
            )
            found.append(f"the gradients of {key.removeprefix('gradient_')} have {what} (norm {value:.2g}); {cure}")
    return found
