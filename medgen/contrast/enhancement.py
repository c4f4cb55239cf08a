"""Iodine of every structure by phase: HU added by contrast medium, consistent between structures of one patient.

Means at 35 s (arterial), 70 s (portal venous) and 3 to 5 min (late) are those of ``phantom.anatomy.tissues`` (Bae,
Radiology 2010;256:32; Heiken et al., Radiology 1995;195:353). Patients differ by iodine dose per weight (one factor for
all structures) and by timing (arteries against veins and parenchyma).
"""

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medgen.phantom.anatomy.tissues import TISSUES
from medgen.terminology import BEFORE, NEXT, WITHOUT, meant, side_of, words

PHASES = ("arterial", "portal_venous", "late")


@dataclass(frozen=True)
class Uptake:
    """How a structure takes up contrast medium: tissue of ``TISSUES`` and where in the structure.

    ``place``: "all"; "rim" (the outer millimetres: walls of hollow organs); "cortex" (kidney: cortex before medulla);
    "vessels" (soft tissue within the lung); "urine" (excreted contrast medium).
    """

    tissue: str
    place: str = "all"
    mixing: float = 0.05  # relative variation within the structure, by mixing with unenhanced blood or by perfusion


# Terms in a label's name (singular, without side, see `terminology.words`) → uptake. The first that fits counts, so
# that "kidney cyst" is no kidney. A label that fits none takes up nothing.
UPTAKE: tuple[tuple[str, Uptake | None], ...] = (
    ("cyst", None),
    ("stone", None),
    ("calcif", None),
    ("hypervascular", Uptake("lesion_hypervascular", mixing=0.2)),
    ("hypovascular", Uptake("lesion_hypovascular", mixing=0.2)),
    ("tumor", Uptake("lesion_hypovascular", mixing=0.3)),
    ("tumour", Uptake("lesion_hypovascular", mixing=0.3)),
    ("lesion", Uptake("lesion_hypovascular", mixing=0.3)),
    ("metastas", Uptake("lesion_hypovascular", mixing=0.3)),
    ("nodul", Uptake("lesion_hypovascular", mixing=0.3)),
    ("gallbladder", None),
    ("spinal", None),
    ("costal", None),
    ("intervertebral", None),
    ("disc", None),
    ("disk", None),
    ("cartilage", None),
    ("bladder", Uptake("urine", "urine", 0.3)),
    ("collecting", Uptake("urine", "urine", 0.2)),
    ("pulmonary vein", Uptake("blood_left")),
    ("pulmonary artery", Uptake("blood_right", mixing=0.15)),
    ("brain ventricle", None),
    ("cerebral ventricle", None),
    ("atrial appendage", Uptake("blood_left")),
    ("heart atrium left", Uptake("blood_left")),
    ("ventricle left", Uptake("blood_left")),
    ("atrium right", Uptake("blood_right", mixing=0.3)),
    ("ventricle right", Uptake("blood_right", mixing=0.2)),
    ("myocardium", Uptake("heart_muscle", mixing=0.1)),
    ("atrium", Uptake("blood_left")),
    ("heart ventricle", Uptake("blood_left")),
    ("cardiac ventricle", Uptake("blood_left")),
    ("ventricle", None),  # of the brain
    ("heart", Uptake("heart", mixing=0.1)),
    ("portal", Uptake("blood_portal", mixing=0.08)),
    ("splenic vein", Uptake("blood_portal", mixing=0.08)),
    ("mesenteric vein", Uptake("blood_portal", mixing=0.08)),
    ("hepatic vessel", Uptake("blood_hepatic", mixing=0.08)),
    ("liver vessel", Uptake("blood_hepatic", mixing=0.08)),
    ("vessel of the liver", Uptake("blood_hepatic", mixing=0.08)),
    ("hepatic vein", Uptake("blood_hepatic", mixing=0.08)),
    ("superior vena cava", Uptake("blood_right", mixing=0.35)),
    ("brachiocephalic vein", Uptake("blood_right", mixing=0.35)),
    ("vena", Uptake("blood_cava", mixing=0.2)),
    ("ivc", Uptake("blood_cava", mixing=0.2)),
    ("postcava", Uptake("blood_cava", mixing=0.2)),  # as in the data set AMOS, like arota
    ("vein", Uptake("blood_cava", mixing=0.15)),
    ("aorta", Uptake("blood_left")),
    ("arota", Uptake("blood_left")),
    ("artery", Uptake("blood_left")),
    ("arter", Uptake("blood_left")),
    ("brachiocephalic trunk", Uptake("blood_left")),
    ("vessel", Uptake("blood_left")),
    ("false lumen", Uptake("blood_left", mixing=0.3)),
    ("adrenal", Uptake("adrenal")),
    ("kidney", Uptake("renal_cortex", "cortex", 0.08)),
    ("liver", Uptake("liver", mixing=0.08)),
    ("spleen", Uptake("spleen", mixing=0.1)),
    ("pancreas", Uptake("pancreas", mixing=0.15)),
    ("thyroid", Uptake("spleen", mixing=0.1)),
    ("prostate", Uptake("pancreas", mixing=0.2)),
    ("uterus", Uptake("pancreas", mixing=0.2)),
    ("lung", Uptake("lung_vessel", "vessels")),
    ("esophagus", Uptake("gut_wall", "rim")),
    ("stomach", Uptake("gut_wall", "rim")),
    ("duodenum", Uptake("gut_wall", "rim")),
    ("small bowel", Uptake("gut_wall", "rim")),
    ("bowel", Uptake("gut_wall", "rim")),
    ("colon", Uptake("gut_wall", "rim")),
    ("gluteus", Uptake("muscle")),
    ("autochthon", Uptake("muscle")),
    ("iliopsoa", Uptake("muscle")),
    ("muscle", Uptake("muscle")),
    ("vertebra", Uptake("trabecular_bone", mixing=0.2)),
    ("sacrum", Uptake("trabecular_bone", mixing=0.2)),
    ("skin", Uptake("skin")),
)


# Words that make a name mean something else than the structure it names: its surroundings, or what takes up nothing.
# Lesions and muscles keep their meaning beside most of them (lymph_node_metastasis, abdominal_wall_muscle).
OTHER = frozenset(
    "without outside around near beside background exclude excluding fat thrombus thrombosis haematoma "
    "hematoma wall graft stent metal clip catheter drain implant node lymph content filter prosthesis prosthetic valve "
    "duct device pacemaker lead electrode coil port tube pump screw plate cement air gas stone calculus calculi "
    "calcification plaque feces faeces stool lateral csf third fourth 3rd 4th infarct infarcted infarction ischemia "
    "ischaemia ischemic ischaemic necrosis necrotic necrotised necrotized devascularised devascularized embolised "
    "embolized ablation ablated resection resected abscess collection laceration contusion rupture seroma "
    "biloma urinoma ascites effusion edema oedema nephrostomy stoma scar defect bulla emphysema pneumothorax "
    "hydronephrosis artifact artefact marker needle applicator balloon pack gauze suture staple mesh".split()
)
# Words beside the name of a structure that leave its meaning as it is; `unknown_words` returns the others.
NEUTRAL = frozenset(
    "segment lobe upper lower middle superior inferior medial anterior posterior central peripheral caudate "
    "quadrate tissue parenchyma parenchymal organ whole total entire all healthy normal native transplant "
    "transplanted mask label gt seg roi manual auto predicted prediction body head tail neck uncinate process "
    "small large main gland cortex cortical medulla medullary renal hepatic splenic pancreatic pulmonary cardiac "
    "ascending descending transverse sigmoid rectum rectosigmoid caecum cecum flexure ileum jejunum antrum fundus "
    "pylorus loop thoracic lumbar cervical sacral bone marrow level column spine region zone transition and of "
    "the ct other muscle urinary gastrointestinal intestine zona lingula apex base iliac common external internal "
    "femoral carotid subclavian brachiocephalic trunk celiac coeliac mesenteric gastric gastroduodenal gonadal "
    "azygos hemiazygos jugular axillary popliteal tibial brachial radial ulnar coronary abdominal arch root true "
    "false lumen cavity cava vena vein artery arterial venous vessel blood aorta aortic great proper umbilical "
    "uterine ovarian testicular adrenal suprarenal cerebral basilar vertebral intercostal lad lcx rca circumflex "
    "marginal diagonal septal sinus ventricle ventricular atrium atrial appendage heart myocardium tree pool "
    "branch system network medium".split()
)
# Further such words beside the name of a lesion: its place, kind and look.
LESION_WORDS = frozenset(
    "liver kidney spleen pancreas lung colon stomach bowel bone brain breast prostate bladder ovary uterus "
    "thyroid lymph node skin wall abdomen abdominal chest pelvis pelvic soft pleura pleural peritoneum duodenum "
    "esophagus oesophagus rectal mediastinum mediastinal retroperitoneal subcutaneous benign malignant primary "
    "secondary solid enhancing viable active target index suspicious focal multiple single solitary dominant "
    "hyper hypo vascular cancer carcinoma adenocarcinoma sarcoma lymphoma hcc rcc fnh hemangioma haemangioma "
    "adenoma neuroendocrine mass core rim primary metastatic metastasis recurrent residual new old indeterminate "
    "unknown nodule tumor tumour lesion".split()
)
# Endings of words whose stem is a term.
ENDINGS = frozenset("y e es is s ies ial al ar ous us a um ic ium ule ules".split())
NUMBER = re.compile(r"[a-z]{0,2}\d+[a-z]?|[ivx]+[a-d]?|[a-d]")  # such as 4, l5, iva
INSIDE = frozenset(("lumen", "cavity"))  # filled with something else, unless the structure is a vessel or the heart
# How such words begin.
OTHER_STEMS = (
    "thromb",
    "clot",
    "occlu",
    "embol",
    "infarct",
    "necro",
    "ischaem",
    "ischem",
    "devascular",
    "ablat",
    "fibro",
)
# Of those, what takes up nothing even in a lesion or a muscle.
NO_UPTAKE = frozenset("fat air gas bed cavity edema oedema metal clip calcification scar haematoma hematoma".split())
NO_UPTAKE_STEMS = ("necro", "infarct", "ablat", "thromb", "embolis", "emboliz", "devascular")
NEGATION = frozenset("no not non without exclude excluding background".split())  # as the first word


def uptake_of(name: str) -> Uptake | None:
    """How the structure of a label takes up contrast medium; None if it does not, or if a word of the name is unknown.

    A word that is not known may change the meaning ("hernia" in liver_hernia). The structure then stays as it is, which
    `unknown_words` reports: missing contrast medium is visible, contrast medium in the wrong place is not.
    """
    return None if unknown_words(name) else _named_uptake(name)[1]


def unknown_words(name: str) -> tuple[str, ...]:
    """Words beside the name of an enhancing structure whose meaning is not known; empty for other structures.

    Muscles may have any adjective: their uptake is small.
    """
    term, uptake = _named_uptake(name)
    found, said = words(name), meant(name)
    if uptake is None or uptake.tissue.startswith("muscle"):
        return ()
    known = NEUTRAL | (LESION_WORDS if uptake.tissue.startswith("lesion") else frozenset())
    dropped = frozenset(found) - frozenset(said)  # "without lesion" says what is not there
    negated = {word for word in dropped if not _negates_a_property(word, found)}
    return tuple(word for word in found if word not in negated and not _is_known(word, term, known))


def _negates_a_property(word: str, found: tuple[str, ...]) -> bool:
    """Whether a negated word is no structure or lesion, such as "nonperfused" or "perfused" after "not"."""
    if word in WITHOUT or word in NEXT or word in BEFORE or word.startswith("peri"):
        return False
    bare = word.removeprefix("non")
    after_not = any(a in NEXT and b == word for a, b in pairwise(found))
    return (after_not or bare != word) and not any(part in bare for term, _ in UPTAKE for part in term.split())


def _is_known(word: str, term: str, known: frozenset[str]) -> bool:
    """Whether a word is known, or made of known words written together (portalvein, kidneys as kidney)."""
    if word in known or NUMBER.fullmatch(word):
        return True
    for part in term.split():
        if word == part or (word.startswith(part) and word[len(part) :] in ENDINGS):
            return True
    parts = known | {part for each, _ in UPTAKE for part in each.split()} | {"left", "right"}
    return any(
        len(part) > 2 and word.startswith(part) and word != part and _is_known(word[len(part) :], term, known)
        for part in parts
    )


def _named_uptake(name: str) -> tuple[str, Uptake | None]:
    """The term of UPTAKE that a name contains, and its uptake, None beside words that take it away."""
    if NEGATION.intersection(words(name)[:1]) or any(word.startswith("nonenhanc") for word in words(name)):
        return "", None
    said = meant(name)  # "liver" of "liver_without_lesion"
    text = " ".join(said)
    dead = not NO_UPTAKE.isdisjoint(said) or any(word.startswith(NO_UPTAKE_STEMS) for word in said)
    other = dead or not OTHER.isdisjoint(said) or any(word.startswith(OTHER_STEMS) for word in said)
    side = f" {side_of(name)}" if side_of(name) else ""
    for term, uptake in UPTAKE:
        if term in text or term in text + side:
            keeps = not dead and uptake is not None and uptake.tissue.startswith(("lesion", "muscle"))
            blood = uptake is not None and uptake.tissue.startswith("blood")
            empty = not keeps and (other or (INSIDE.intersection(said) and not blood))
            return term, None if empty else uptake
    return "", None


def draw_iodine(phase: str, rng: np.random.Generator) -> dict[str, float]:
    """HU added by iodine in every tissue of one patient at a phase.

    One dose factor (0.7 to 1.35) scales all tissues; timing shifts iodine between arteries and veins; each tissue
    varies by 6 % of its own.

    Raises:
        ValueError: unknown phase.
    """
    if phase not in PHASES:
        raise ValueError(f"phase {phase!r} must be one of {', '.join(PHASES)}")
    dose = float(np.clip(rng.normal(1, 0.15), 0.7, 1.35))
    timing = float(np.clip(rng.normal(0, 1), -1.8, 1.8))
    early = 0.08 * timing if phase != "late" else 0.0
    found = {}
    for name, tissue in TISSUES.items():
        balance = 1 + early * (1 if name in ("blood_left", "blood_right", "renal_cortex") else -1)
        found[name] = dose * balance * float(np.clip(rng.normal(1, 0.06), 0.88, 1.12)) * getattr(tissue, phase)
    # A whole heart in one label: blood of four chambers and muscle cannot be told apart without contrast medium.
    found["heart"] = 0.35 * found["heart_muscle"] + 0.4 * found["blood_left"] + 0.25 * found["blood_right"]
    return found
