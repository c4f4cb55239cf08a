"""Structure names of the phantom cohort and their values in label maps."""

LABELS: dict[str, int] = {
    name: value
    for value, name in enumerate(
        (
            "aorta",
            "inferior_vena_cava",
            "portal_vein",
            "hepatic_vessels",
            "liver",
            "spleen",
            "kidney_left",
            "kidney_right",
            "collecting_system",
            "pancreas",
            "adrenal_glands",
            "stomach",
            "bowel",
            "gallbladder",
            "heart",
            "lung",
            "bone",
            "cartilage",
            "spinal_canal",
            "muscle",
            "fat",
            "skin",
            "arteries",
            "veins",
            "cyst",
            "lesion_hypovascular",
            "lesion_hypervascular",
        ),
        start=1,
    )
}
