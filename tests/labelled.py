"""Small labelled datasets on disk in three layouts, written by nibabel and json alone, and what is in them."""

import json

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (10, -20, 35), degrees=True).as_matrix() @ np.diag([-2.0, 2.0, 2.5])
OBLIQUE[:3, 3] = (-120.3, 55.1, 700.7)
SHAPE = (12, 14, 10)
LABELS = {"background": 0, "liver": 1, "lesion": 2}


def save(path, data, affine=OBLIQUE, **header):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def voxels(number, channels=1):
    """Integer images (X, Y, Z, C) and a label of 0, 1, 2."""
    rng = np.random.default_rng(number)
    label = np.zeros(SHAPE, np.uint8)
    label[3:9, 3:9, 2:8] = 1
    label[4:6, 4:6, 3:5] = 2
    images = np.rint(rng.normal(0, 8, (*SHAPE, channels)) - 1000 * (label == 0)[..., None] + 40 * label[..., None])
    return images.astype(np.int16), label


def write_nnunet(root, cases=3, channels=("CT",), tests=0, labels=LABELS, **table):
    for i in range(cases + tests):
        images, label = voxels(i, len(channels))
        part, name = ("Tr", f"case{i}") if i < cases else ("Ts", f"test{i}")
        for c in range(len(channels)):
            save(root / f"images{part}" / f"{name}_{c:04d}.nii.gz", images[..., c])
        if part == "Tr":
            save(root / "labelsTr" / f"{name}.nii.gz", label)
    named = {str(c): name for c, name in enumerate(channels)}
    about = {"channel_names": named, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz", **table}
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def write_decathlon(root, cases=3, channels=("FLAIR", "T1"), tests=1, **table):
    for i in range(cases + tests):
        images, label = voxels(i, len(channels))
        part, name = ("Tr", f"case{i}") if i < cases else ("Ts", f"test{i}")
        save(root / f"images{part}" / f"{name}.nii.gz", images if len(channels) > 1 else images[..., 0])
        if part == "Tr":
            save(root / "labelsTr" / f"{name}.nii.gz", label)
    entries = [{"image": f"./imagesTr/case{i}.nii.gz", "label": f"./labelsTr/case{i}.nii.gz"} for i in range(cases)]
    about = {
        "name": "Task",
        "reference": "King's College London",
        "licence": "CC-BY-SA 4.0",
        "modality": {str(c): name for c, name in enumerate(channels)},
        "labels": {str(value): name for name, value in LABELS.items()},
        "numTraining": cases,
        "training": entries,
        "test": [f"./imagesTs/test{i + cases}.nii.gz" for i in range(tests)],
        **table,
    }
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def write_folders(root, cases=3, folder="images"):
    for i in range(cases):
        images, label = voxels(i)
        save(root / folder / f"case{i}.nii.gz", images[..., 0])
        save(root / "labels" / f"case{i}.nii.gz", (label * 3).astype(np.uint8))
    (root / "labels.json").write_text('{"lesion": 6, "liver": 3}')
    return root


def with_header(path, names):
    """Write the names of label values into the file, as TotalSegmentator does."""
    image = nib.load(path)
    text = "".join(f'<Label Key="{value}"><![CDATA[{name}]]></Label>' for value, name in names.items())
    image = nib.Nifti1Image(np.array(image.dataobj), image.affine, image.header)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(30, text.encode()))
    nib.save(image, path)
