"""Random attenuation and enhancement of every tissue, for training networks that must work on any scanner and phase.

Each draw covers more than patients show (domain randomisation: Billot et al., SynthSeg, Med Image Anal 2023;86:102789):
lumens from 60 to 600 HU, phases from none to late, bone from 60 to 1400 HU, bowel with oral contrast medium. What
stays true: iodine adds to attenuation; arteries, veins and organs follow one another by phase (Bae, Radiology
2010;256:32); a cyst, bile, bone and oral contrast medium take up none.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medgen.phantom.anatomy.tissues import TISSUES, Tissue

FURTHER: dict[str, Tissue] = {
    "blood_pulmonary": Tissue(41, 4, 1),
    "blood_superior": Tissue(41, 4, 1),
    "blood_false": Tissue(43, 4, 1),  # false lumen of a dissection: fills later or not at all
    "thrombus": Tissue(40, 10, 4),
    "bladder_urine": Tissue(6, 4, 1),
    "stent": Tissue(1500, 400, 0),
    "metal": Tissue(2800, 400, 0),
    "rib_cortex": Tissue(600, 200, 10),
    "brain": Tissue(35, 3, 3),
    "thyroid": Tissue(95, 20, 5),
}
ALL_TISSUES = TISSUES | FURTHER
BLOOD = ("lung_vessel", "blood")  # how names of blood begin
NO_IODINE = ("air", "mattress", "table", "table_core", "gas", "metal", "stent", "calcification", "cyst_fluid", "bile")


@dataclass(frozen=True)
class Draw:
    """HU without contrast medium and HU added by iodine, of each tissue; relative variation of the iodine within it."""

    hu: dict[str, float]
    iodine: dict[str, float]
    mixing: dict[str, float]
    phase: str


def draw_tissues(rng: np.random.Generator) -> Draw:
    """Attenuation (HU) and enhancement (HU added) of every tissue for one scan."""
    hu = {name: tissue.hu + 1.6 * tissue.spread * float(rng.normal()) for name, tissue in ALL_TISSUES.items()}
    blood = float(rng.uniform(28, 52))
    for name in hu:
        if name.startswith(BLOOD) and name != "blood_false":
            hu[name] = blood
    hu["blood_false"] = blood + float(rng.uniform(-3, 12))
    fatty = rng.random() < 0.25
    hu["liver"] = float(rng.uniform(0, 45) if fatty else rng.uniform(46, 70))
    hu["cortical_bone"] = float(rng.uniform(280, 1300))
    hu["rib_cortex"] = float(rng.uniform(180, 1000))
    hu["trabecular_bone"] = float(rng.uniform(60, 420))
    hu["rib_marrow"] = float(rng.uniform(-60, 90) if rng.random() < 0.4 else rng.uniform(40, 350))  # fatty, or dense
    hu["disc"], hu["cartilage"] = float(rng.uniform(50, 130)), float(rng.uniform(60, 180))
    hu["calcification"] = float(rng.uniform(200, 1300))
    hu["table"] = float(rng.uniform(-200, 1100))
    hu["lung"] = float(rng.uniform(-900, -650))
    if rng.random() < 0.2:  # oral contrast medium, or dense food
        for name in ("gut_fluid", "stomach_content", "faeces"):
            if rng.random() < 0.7:
                hu[name] = float(rng.uniform(60, 500))
    phase = str(rng.choice(("none", "early", "arterial", "portal_venous", "late"), p=(0.15, 0.12, 0.29, 0.33, 0.11)))
    iodine, mixing = _enhancement(rng, phase)
    return Draw(hu, iodine, mixing, phase)


def _enhancement(rng: np.random.Generator, phase: str) -> tuple[dict[str, float], dict[str, float]]:
    def u(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    iodine, mixing = dict.fromkeys(ALL_TISSUES, 0.0), dict.fromkeys(ALL_TISSUES, 0.05)
    if phase == "none":
        return iodine, mixing
    dose = u(0.6, 1.4)
    iodine |= _early(u, phase, dose) if phase in ("early", "arterial") else _venous(u, phase, dose)
    part = float(np.clip(iodine["liver"] * u(0.1, 0.6), 0, 40))
    iodine |= {
        "lesion_hypovascular": part,
        "lesion_rim": part + u(0, 30),
        "trabecular_bone": dose * u(0, 10),
        "rib_marrow": dose * u(0, 8),
        "rib_cortex": dose * u(0, 6),
        "skin": dose * u(0, 8),
        "fascia": dose * u(0, 6),
        "lung": dose * u(0, 14),
        "bile_wall": dose * u(5, 40),
        "brain": dose * u(0, 5),
        "cord": dose * u(0, 4),
        "thrombus": u(0, 8) if rng.random() < 0.3 else 0.0,
    }
    for name in ("blood_right", "blood_superior", "blood_cava", "blood_false", "blood_portal"):
        mixing[name] = u(0.0, 0.8) if phase in ("early", "arterial") else u(0, 0.15)
    mixing["blood_left"] = u(0, 0.3) if phase == "early" else u(0, 0.15)
    for name in ("spleen", "renal_cortex", "liver", "gut_wall"):
        mixing[name] = u(0, 0.25)
    for name in NO_IODINE:
        iodine[name] = 0.0
    return iodine, mixing


def _early(u: Callable[[float, float], float], phase: str, dose: float) -> dict[str, float]:
    """HU added while the bolus is in the right heart (early) or in the arteries."""
    aorta = u(120, 560) if phase == "arterial" else u(20, 250)
    right = aorta * u(0.2, 1.3) if phase == "arterial" else u(150, 600)  # early: the bolus is in the right heart
    return {
        "blood_left": aorta,
        "blood_right": right,
        "blood_pulmonary": right * u(0.7, 1.2),
        "blood_superior": right * u(0.3, 2.0),
        "blood_false": aorta * u(0.0, 0.9),
        "blood_cava": aorta * u(0.0, 0.45),
        "blood_portal": aorta * u(0.0, 0.4),
        "blood_hepatic": aorta * u(0.0, 0.12),
        "lung_vessel": right * u(0.5, 1.0),
        "heart_muscle": aorta * u(0.1, 0.35),
        "liver": dose * u(0, 30),
        "spleen": min(aorta, 350) * u(0.15, 0.45),
        "renal_cortex": min(aorta, 400) * u(0.2, 0.6),
        "renal_medulla": min(aorta, 400) * u(0.02, 0.25),
        "pancreas": min(aorta, 350) * u(0.1, 0.3),
        "adrenal": min(aorta, 350) * u(0.1, 0.25),
        "gut_wall": min(aorta, 350) * u(0.03, 0.2),
        "lesion_hypervascular": min(aorta, 350) * u(0.2, 0.5),
        "thyroid": u(10, 90),
        "muscle": dose * u(0, 10),
    }


def _venous(u: Callable[[float, float], float], phase: str, dose: float) -> dict[str, float]:
    """HU added in the portal venous and the late phase."""
    vein = dose * (u(60, 170) if phase == "portal_venous" else u(30, 90))
    iodine = {
        "blood_left": vein * u(0.85, 1.3),
        "blood_right": vein * u(0.8, 1.2),
        "blood_pulmonary": vein * u(0.8, 1.2),
        "blood_superior": vein * u(0.7, 1.3),
        "blood_false": vein * u(0.3, 1.2),
        "blood_cava": vein * u(0.5, 1.1),
        "blood_portal": vein * u(0.8, 1.35),
        "blood_hepatic": vein * u(0.6, 1.2),
        "lung_vessel": vein * u(0.8, 1.2),
        "heart_muscle": vein * u(0.4, 0.7),
        "liver": vein * u(0.3, 0.6),
        "spleen": vein * u(0.5, 0.8),
        "renal_cortex": vein * u(1.0, 1.7),
        "renal_medulla": vein * u(0.7, 1.7),
        "pancreas": vein * u(0.3, 0.6),
        "adrenal": vein * u(0.3, 0.6),
        "gut_wall": vein * u(0.2, 0.5),
        "lesion_hypervascular": vein * u(0.3, 0.7),
        "thyroid": u(10, 80),
        "muscle": dose * u(3, 16),
    }
    if phase == "late" and u(0, 1) < 0.7:
        iodine["urine"], iodine["bladder_urine"] = u(50, 900), u(0, 700)
    return iodine
