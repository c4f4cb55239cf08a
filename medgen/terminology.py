"""Anatomical and radiological terms in the names of labels and contrasts, and what they mean.

`words` is the one rule for reading a name: case, CamelCase, underscores, hyphens, sides and plurals do not matter, so
that ``KidneyLeft``, ``left kidney`` and ``Kidneys`` are all ``kidney``. Terms below are singular and lower-case.
docs/decisions/terminology.md lists where the tables differ, and why.
"""

import re

# Names of contrasts and domains that mean: no contrast medium. Others are declared by data.removes_contrast.
NATIVE = {"none", "native", "noncontrast", "unenhanced", "plain", "precontrast", "ncct", "vnc"}

SIDES = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}  # TG-263: _L, _R
IRREGULAR = {"vertebrae": "vertebra", "metastases": "metastasis"}
SINGULAR = {"pancreas", "gas", "feces", "faeces"}  # ends like a plural; words in -ss, -us and -is are singular by rule

# Structure -> terms; the first structure with a term anywhere in the name is meant.
STRUCTURES = {
    "aorta": ("aorta", "arota"),  # the second, and postcava, as in the data set AMOS
    "inferior_vena_cava": ("vena cava", "venacava", "ivc", "postcava"),
    "portal_vein": ("portal",),
    "artery": ("arter",),
    "vein": ("vein", "vena", "vessel"),
    "collecting_system": ("collecting", "renal pelvis"),
    "kidney": ("kidney",),
    "spleen": ("spleen",),
    "liver": ("liver",),
}
VESSELS = {"aorta", "inferior_vena_cava", "portal_vein", "artery", "vein"}
HOMOGENEOUS = ("liver", "spleen")  # parenchyma of uniform HU
DISPLAY_ORDER = ("aorta", "kidney", "liver", "spleen", "inferior_vena_cava", "portal_vein", "artery", "vein")

# Terms of structures and lesions that enhance, and of those that do not although their name contains such a term.
ENHANCING = (*(term for terms in STRUCTURES.values() for term in terms), "renal", "hyper")
NOT_ENHANCING = (
    "adrenal", "cyst", "stone", "hypovascular", "lesion hypo", "stent", "thromb", "calcif", "plaque", "hematoma",
    "haematoma", "infarct", "necro",
)  # fmt: skip
FILLING = {"fat", "wall", "graft", "gas", "air", "clip", "coil"}  # words: parts of a structure that do not enhance

# Words that negate: all words after them, only the next one, or the one before.
WITHOUT = {"no", "without", "excluding", "exclude", "except", "minus", "ohne", "sans"}
NEXT = {"non", "not"}
BEFORE = {"free"}

MUSCLES = ("muscle", "autochthon", "psoa", "gluteu")  # the last three: TotalSegmentator
NOT_SKELETAL = ("heart", "cardi", "papillar")

LESIONS = ("lesion", "cyst", "tumor", "tumour", "metasta", "nodul")
CALCULI = ("stone",)

# Whole name -> keyword in pydicom.sr.codedict.codes.SCT.
SNOMED_STRUCTURES = {
    "aorta": "Aorta", "inferior vena cava": "InferiorVenaCava", "ivc": "InferiorVenaCava",
    "portal vein": "PortalVein", "liver": "Liver", "spleen": "Spleen", "kidney": "Kidney", "pancreas": "Pancreas",
    "renal pelvis": "RenalPelvis", "adrenal gland": "AdrenalGland", "stomach": "Stomach",
    "gallbladder": "Gallbladder", "heart": "Heart", "lung": "Lung", "bone": "Bone", "muscle": "Muscle",
    "skin": "Skin", "artery": "Artery", "vein": "Vein", "vessel": "BloodVessel", "hepatic vessel": "BloodVessel",
    "bladder": "Bladder", "urinary bladder": "Bladder", "esophagus": "Esophagus", "oesophagus": "Esophagus",
    "trachea": "Trachea", "colon": "Colon", "duodenum": "Duodenum", "small intestine": "SmallIntestine",
    "small bowel": "SmallIntestine", "prostate": "Prostate", "brain": "Brain", "hippocampus": "Hippocampus",
    "vertebra": "Vertebra", "rib": "Rib", "skull": "Skull", "spinal cord": "SpinalCord",
    "white matter": "WhiteMatter", "gray matter": "GrayMatter", "grey matter": "GrayMatter",
    "pulmonary artery": "PulmonaryArtery",
}  # fmt: skip
SNOMED_TISSUES = {"fat": "AdiposeTissue", "soft tissue": "SoftTissue", "blood": "Blood"}
# Any word of the name -> keyword.
SNOMED_LESIONS = {
    "lesion": "Lesion", "cyst": "Cyst", "tumor": "Neoplasm", "tumour": "Neoplasm", "nodule": "Nodule",
    "metastasis": "Metastasis",
}  # fmt: skip


def words(name: str) -> tuple[str, ...]:
    """The words of a name: lower case, singular, without sides; split at spaces, underscores, hyphens and CamelCase."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return tuple(_singular(word) for word in re.split(r"[\s_-]+", spaced) if word and word not in SIDES)


def side_of(name: str) -> str:
    """The side in a name, "left" or "right": ``Kidney_L``, ``kidneyLeft``, ``left kidney``; "" without one."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return next((SIDES[word] for word in re.split(r"[\s_-]+", spaced) if word in SIDES), "")


def meant(name: str) -> tuple[str, ...]:
    """`words` of a name without those that it negates: ``liver_without_lesion`` and ``lesion_free_liver`` are "liver".

    Surroundings count as negated: ``peritumoral_fat`` is "fat". ``non_enhancing_tumor`` is "tumor".
    """
    kept: list[str] = []
    following = list(words(name))
    while following:
        word = following.pop(0)
        if word in WITHOUT:
            break
        if word in NEXT:
            following = following[1:]
        elif word in BEFORE:
            kept = kept[:-1]
        elif not word.startswith("peri") and not (word.startswith("non") and len(word) > len("non")):
            kept.append(word)
    return tuple(kept)


def is_native(name: str) -> bool:
    """Whether a name means: no contrast medium, as ``none``, ``Non-Contrast`` and ``non_contrast`` do."""
    return "".join(words(name)) in NATIVE


def structure_of(name: str) -> str | None:
    """Which of `STRUCTURES` a label's name means: ``kidney_left`` is "kidney"; None for lesions, stones and others."""
    if is_pathology(name) or not is_enhancing(name):
        return None
    return next((structure for structure, terms in STRUCTURES.items() if _has(name, terms)), None)


def is_enhancing(name: str) -> bool:
    """Whether a name means a structure or lesion that intravenous contrast medium brightens."""
    return _has(name, ENHANCING) and not _has(name, NOT_ENHANCING) and FILLING.isdisjoint(meant(name))


def is_vessel(name: str) -> bool:
    """Whether a name means a blood vessel."""
    return structure_of(name) in VESSELS


def is_homogeneous(name: str) -> bool:
    """Whether a name, also of a part such as ``liver_vessels``, has the term of a homogeneous organ."""
    return _has(name, HOMOGENEOUS)


def is_muscle(name: str) -> bool:
    """Whether a name means skeletal muscle."""
    return _has(name, MUSCLES) and not _has(name, NOT_SKELETAL) and not is_pathology(name)


def is_lesion(name: str) -> bool:
    """Whether a name means a lesion, cyst, tumour, nodule or metastasis."""
    return _has(name, LESIONS)


def is_pathology(name: str) -> bool:
    """Whether a name means a lesion or a stone rather than normal anatomy."""
    return _has(name, LESIONS + CALCULI)


def display_rank(name: str) -> int:
    """Place of a structure in reports, the most telling of the enhancement first; those of no rank share the last."""
    structure = structure_of(name)
    return DISPLAY_ORDER.index(structure) if structure in DISPLAY_ORDER else len(DISPLAY_ORDER)


def snomed(name: str) -> tuple[str, str]:
    """Keywords of category and type in ``pydicom.sr.codedict.codes.SCT``; ("Tissue", "Tissue") for an unknown name."""
    parts = words(name)
    whole = " ".join(parts)
    if whole in SNOMED_STRUCTURES:
        return "AnatomicalStructure", SNOMED_STRUCTURES[whole]
    if whole in SNOMED_TISSUES:
        return "Tissue", SNOMED_TISSUES[whole]
    kind = next(
        (SNOMED_LESIONS[word] for word in meant(name) if word in SNOMED_LESIONS), "Lesion" if is_lesion(name) else ""
    )
    return ("MorphologicallyAbnormalStructure", kind) if kind else ("Tissue", "Tissue")


def _has(name: str, terms: tuple[str, ...]) -> bool:
    text = " ".join(meant(name))
    return any(term in text for term in terms)


def _singular(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word in SINGULAR or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    return f"{word[:-3]}y" if word.endswith("ies") else word[:-1]
