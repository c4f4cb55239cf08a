"""HU of tissues and their iodine enhancement, from the literature, varied for each patient.

Unenhanced soft tissue: Lamba et al., AJR 2014;203:1013 (liver 55-60, spleen 45-50, kidney 30-33, pancreas
40, aorta about 40 HU); muscle 50-55 and fat -90..-115 HU: Aubrey et al., Acta Physiol 2014;210:489.
Vertebral trabecular bone 90-220 HU by age: Pickhardt et al., Ann Intern Med 2013;158:588. Lung,
cortical bone, bile, cartilage: ICRU Report 44, calibrated as Schneider et al., Phys Med Biol 1996;41:111.
Enhancement (HU added by iodine) of aorta, liver, spleen, kidney, pancreas and veins by phase: Bae, Radiology
2010;256:32 and Heiken et al., Radiology 1995;195:353. Hypervascular and hypovascular lesions: Baron &
Brancatelli, Gastroenterology 2004;127:S133. Attenuation is linear in iodine concentration: enhancement adds.
"""

from dataclasses import dataclass

import numpy as np

from medgen.phantom.anatomy.shapes import stream

PHASES = ("none", "arterial", "portal_venous", "late")


@dataclass(frozen=True)
class Tissue:
    """HU of a tissue: unenhanced value, standard deviation between patients (``spread``), texture within the tissue,
    and HU added in the arterial (35 s), portal venous (70 s) and late (3-5 min) phase."""

    hu: float
    spread: float = 0.0
    texture: float = 0.0
    arterial: float = 0.0
    portal_venous: float = 0.0
    late: float = 0.0


TISSUES: dict[str, Tissue] = {
    "air": Tissue(-1000),
    "mattress": Tissue(-930, 15, 4),
    "table": Tissue(180, 60),
    "table_core": Tissue(-900, 15),
    "skin": Tissue(15, 8, 4, 2, 5, 6),
    "fat_subcutaneous": Tissue(-106, 4, 4),
    "fat_visceral": Tissue(-100, 4, 8),
    "fascia": Tissue(20, 8, 0, 3, 6, 6),
    "muscle": Tissue(54, 4, 5, 5, 10, 12),
    "cortical_bone": Tissue(660, 70, 40),
    "trabecular_bone": Tissue(165, 35, 28, 5, 10, 9),
    "rib_marrow": Tissue(105, 30, 20, 4, 8, 8),
    "cartilage": Tissue(95, 12, 8, 1, 2, 3),
    "disc": Tissue(85, 8, 5, 0, 1, 2),
    "cord": Tissue(26, 4, 3, 2, 4, 4),
    "lung": Tissue(-845, 22, 16, 9, 8, 5),
    "lung_vessel": Tissue(36, 3, 0, 200, 100, 62),
    "heart_muscle": Tissue(45, 3, 3, 70, 58, 40),
    "blood_left": Tissue(41, 4, 1, 290, 110, 66),  # aorta, its branches, left heart
    "blood_right": Tissue(41, 4, 1, 200, 104, 66),  # right heart: incompletely mixed in the arterial phase
    "blood_cava": Tissue(40, 4, 1, 45, 94, 64),
    "blood_portal": Tissue(40, 4, 1, 55, 126, 68),
    "blood_hepatic": Tissue(40, 4, 1, 12, 116, 68),
    "liver": Tissue(57, 5, 3, 13, 55, 38),
    "spleen": Tissue(48, 3, 2, 85, 71, 45),
    "renal_cortex": Tissue(33, 3, 2, 150, 150, 108),
    "renal_medulla": Tissue(30, 3, 2, 32, 122, 112),
    "urine": Tissue(5, 3, 1, 0, 6, 420),
    "pancreas": Tissue(41, 4, 6, 62, 50, 32),
    "adrenal": Tissue(22, 8, 3, 40, 45, 25),
    "gut_wall": Tissue(38, 4, 3, 32, 38, 28),
    "gut_fluid": Tissue(18, 6, 6),
    "stomach_content": Tissue(22, 12, 10),
    "faeces": Tissue(5, 20, 25),
    "gas": Tissue(-985, 6, 4),
    "bile": Tissue(8, 5, 1),
    "bile_wall": Tissue(35, 3, 0, 15, 40, 35),
    "cyst_fluid": Tissue(6, 4, 1),
    "lesion_hypovascular": Tissue(37, 5, 4, 8, 20, 24),
    "lesion_rim": Tissue(42, 4, 4, 28, 36, 34),
    "lesion_hypervascular": Tissue(48, 4, 4, 92, 56, 32),
    "calcification": Tissue(620, 150),
}


def draw_values(seed: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Draw the HU of every tissue in every phase for one patient.

    Returns ``({phase: {tissue: HU}}, {"dose_factor": ..., "timing": ...})``. ``dose_factor`` scales the enhancement of
    all tissues (dose by body weight); ``timing`` shifts it between arteries and veins or parenchyma.
    """
    rng = stream(seed, "tissues")
    dose, timing = float(np.clip(rng.normal(1, 0.1), 0.8, 1.22)), float(np.clip(rng.normal(0, 1), -1.8, 1.8))
    blood = float(np.clip(rng.normal(0, 3.5), -7, 7))  # haematocrit: varies between patients, but not between vessels
    values: dict[str, dict[str, float]] = {phase: {} for phase in PHASES}
    for name, tissue in TISSUES.items():
        offset = float(np.clip(rng.normal(0, tissue.spread), -1.8 * tissue.spread, 1.8 * tissue.spread))
        uptake = dose * float(np.clip(rng.normal(1, 0.06), 0.88, 1.12))
        offset = blood if name.startswith(("blood", "lung_vessel")) else offset
        early = 1 + 0.05 * timing * (1 if name in ("blood_left", "renal_cortex") else -1)
        values["none"][name] = tissue.hu + offset
        for phase in PHASES[1:]:
            balance = early if phase != "late" else 1.0
            values[phase][name] = tissue.hu + offset + uptake * balance * getattr(tissue, phase)
    return values, {"dose_factor": dose, "timing": timing}
