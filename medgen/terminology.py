"""Anatomical and radiological words in the names of labels and contrasts, and what they mean."""

# Names of contrasts and domains that say there is no contrast medium; others say so with data.removes_contrast.
NATIVE = {"none", "native", "noncontrast", "non_contrast", "unenhanced", "plain", "precontrast", "ncct", "vnc"}
