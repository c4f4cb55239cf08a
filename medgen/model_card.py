"""The card of a model folder (``card.md``): what the model was trained on, what it is for, its numbers and limits."""

from medgen.model_info import ModelInfo

CARD = "card.md"
USE = "Research. Outputs are synthetic and not for diagnosis. Read the verdict of each case."
LIMITS = (
    "Scans that differ from the training scans in protocol, body region, spacing or disease give results that nobody "
    "has measured; `medgen translate` warns of those whose intensities or sizes are unlike them. Structures can be "
    "invented or lost; `medgen translate` checks each case for it, and does not find everything."
)


def card_text(info: ModelInfo) -> str:
    """The card of a model as Markdown: data, intended use, numbers and limits, as far as model.json knows them."""
    data = info.settings["data"]
    sources, targets = " and ".join(data["sources"]) or "nothing", " and ".join(data["domains"] or data["targets"])
    counts = [len(info.training_data.get(part, ())) for part in ("training", "validation", "test")]
    lines = [
        f"# {sources} to {targets}, by {info.settings['method']['name']}",
        "Written by medgen from `model.json`. Add what only you know: origin and consent of the data, scanners, "
        "population.",
        "## Data",
        f"Cases: {counts[0]} for training, {counts[1]} for validation, {counts[2]} for tests. Steps: {info.step}. "
        f"Voxel spacing of the network: {' x '.join(f'{side:g}' for side in info.spacing)} mm.",
        "## Intended use",
        USE,
        "## Numbers",
    ]
    if rows := [f"| {key} | {value:.4g} |" for key, value in info.validation.items() if key != "step"]:
        lines += ["On the validation cases, in the units of the target:"]
        lines += ["\n".join(["| measure | value |", "|---|---|", *rows])]
    else:
        lines += ["None: the run made no validation."]
    lines += ["## Limits", LIMITS]
    if info.health:
        lines += ["Warnings at the end of the training:", "\n".join(f"- {text}" for text in info.health)]
    return "\n\n".join(lines) + "\n"
