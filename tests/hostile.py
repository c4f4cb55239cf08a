"""Malicious or damaged inputs, each generated from a seed.

``write(kind, seed, folder)`` writes one into ``folder/in``; ``run(kind, folder, model)`` gives it to medgen as a user
would, output into ``folder/out``, and returns "converted", "read" or the sentence with which it was refused. Anything
else that happens (an exception, a sentence of several lines, a file elsewhere) is a fault of medgen.
"""

import gzip
import json
import random
import shutil
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import yaml
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medgen.checkpoint import load_model, save_model
from medgen.config import load_settings
from medgen.data.cohort.read import read_cohort
from medgen.errors import InputError
from medgen.inference.cohort.manifest import FORMAT, Manifest, model_description
from medgen.inference.cohort.run import convert
from medgen.model_info import ModelInfo
from medgen.reports.conversion import conversion_report

KINDS = (
    "nifti", "nifti.gz", "nrrd", "mha", "mhd", "dicom", "bomb", "model", "config", "datalist", "labels", "manifest",
    "name",
)  # fmt: skip
SHAPE = (12, 10, 8)
NASTY = (
    0, -1, 1, 2**15 - 1, 2**31 - 1, -(2**31), 2**62, 10**12, 1e-40, 1e30, -1e300, float("nan"), float("inf"), None,
    True, "", "../../escaped", "/etc/passwd", "\0", "\x1b[2J", "nan", "1e999", "é" * 300, "<script>alert(1)</script>",
    "${HOME}", "!!python/object/apply:os.system", [], {}, [[]], [1e12] * 3, {"a": {"b": {}}},
)  # fmt: skip
NAMES = (
    "../up", "..", "con", "NUL.x", "a" * 230, "<img src=x onerror=alert(1)>", "'\"&<>", "\x1b[31mred", "new\nline",
    "tab\there", " ", "-rf", "\udcff\udcfe", "é" * 120, "a\u202egpj", "$(touch escaped)", "{{7*7}}", "%s%n",
    "a;b|c", "COM1",
)  # fmt: skip
CONFIG = {
    "data": {
        "root": "cohort",
        "sources": ["source"],
        "validation": 0.2,
        "patient_pattern": "(.*)",
        "spacing": [1, 1, 1],
    },
    "intensity": {"source": {"kind": "window", "low": -1000, "high": 1000}},
    "sampling": {"patch": [16, 16, 16], "flip": ["x"], "artefacts": [{"name": "RandomNoise", "options": {"std": 1}}]},
    "method": {"name": "pix2pix", "generator": {"filters": 4, "levels": 2}},
    "train": {"steps": 2, "seed": 0},
    "inference": {"window": "auto", "memory_gb": 1.0},
}


def write(kind: str, seed: int, folder: Path, model: Path) -> None:
    """Write the input ``seed`` of a kind; ``model``: a model folder to damage."""
    rng, into = random.Random(f"{kind} {seed}"), folder / "in"
    into.mkdir(parents=True)
    {
        "nifti": _nifti, "nifti.gz": _nifti_gz, "nrrd": _nrrd, "mha": _mha, "mhd": _mhd, "dicom": _dicom, "bomb": _bomb,
        "model": lambda r, f: _model(r, f, model), "config": _config, "datalist": _datalist, "labels": _labels,
        "manifest": _manifest, "name": _name,
    }[kind](rng, into)  # fmt: skip


def run(kind: str, folder: Path, model) -> str:
    """Give the input to medgen and return the outcome; see the module docstring."""
    source, out = folder / "in", folder / "out"
    try:
        if kind == "model":
            load_model(source / "model")
        elif kind == "config":
            load_settings(source / "config.yaml")
        elif kind in ("datalist", "labels"):
            read_cohort(source / "list.json" if kind == "datalist" else source)
        elif kind == "manifest":
            shutil.copytree(source, out)
            with Manifest(out, model_description(model)) as manifest:
                manifest.holds("a", {"output": "a.nii"}, [out / "a.nii"])
        else:
            return _converted(source, out, model, report=kind == "name")
    except InputError as error:
        return sentence(str(error))
    return "read"


def _converted(source: Path, out: Path, model, report: bool) -> str:
    results = convert(model, source, out, memory_gb=0.125)
    for result in results:
        assert result.error is None or "unexpected error" not in result.error, result.error
        assert result.error is None or sentence(result.error)
    if report:
        page = conversion_report([vars(r) for r in results], out / "report.html", most_figures=0)
        text = page.read_text(encoding="utf-8")
        assert "<script>alert" not in text and "<img src=x" not in text
    return sentence(results[0].error) if results[0].error else "converted"


def sentence(text: str) -> str:
    assert 20 < len(text) < 4000 and "Traceback" not in text and text.count("\n") <= 1, text
    return text


# What is written ---------------------------------------------------------------------------------------


def _scan(rng: random.Random) -> np.ndarray:
    return np.random.default_rng(rng.randrange(99)).integers(-1000, 500, SHAPE).astype(np.int16)


def _spoil_bytes(rng: random.Random, content: bytes, header: int) -> bytes:
    """Flip, replace, remove or repeat bytes of a header, or truncate the file."""
    raw = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, way = rng.randrange(min(header, max(1, len(raw)))), rng.randrange(6)
        if way == 0:
            raw[at : at + 1] = bytes([rng.randrange(256)])
        elif way == 1:
            raw[at : at + 2] = struct.pack("<h", rng.choice((0, -1, 32767, -32768, 1)))
        elif way == 2:
            raw[at : at + 4] = struct.pack("<f", rng.choice((0.0, -1.0, 1e30, 1e-30, float("nan"), float("inf"))))
        elif way == 3:
            raw[at : at + 4] = struct.pack("<i", rng.choice((0, -1, 2**31 - 1, -(2**31), 2**20)))
        elif way == 4:
            del raw[rng.randrange(len(raw) + 1) :]
        else:
            raw[at:at] = raw[at : at + rng.choice((1, 8, 64))]
        if not raw:
            break
    return bytes(raw)


def _nifti_bytes(rng: random.Random, kind: type = nib.Nifti1Image) -> bytes:
    image = kind(_scan(rng), np.diag([2.0, 2, 2, 1]))
    if rng.random() < 0.4:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 24))
    return image.to_bytes()


def _nifti(rng: random.Random, into: Path) -> None:
    content = _nifti_bytes(rng, rng.choice((nib.Nifti1Image, nib.Nifti2Image)))
    field = rng.randrange(3)
    if field == 0:  # the fields that say how much there is
        raw = bytearray(content)
        if raw[:2] == b"\x5c\x01":
            raw[40:56] = struct.pack("<8h", *(rng.choice((0, 1, 3, 7, -1, 32767, 12)) for _ in range(8)))
            raw[108:112] = struct.pack("<f", rng.choice((352, 0, -1, 1e12, float("nan"))))
        else:
            raw[16:80] = struct.pack("<8q", *(rng.choice((0, 3, 10**12, -1, 2**62, 12)) for _ in range(8)))
        content = bytes(raw)
    (into / "a.nii").write_bytes(_spoil_bytes(rng, content, 560) if field else content)


def _nifti_gz(rng: random.Random, into: Path) -> None:
    content = _nifti_bytes(rng)
    if rng.random() < 0.7:
        content = gzip.compress(_spoil_bytes(rng, content, 400), 1)
    else:
        content = _spoil_bytes(rng, gzip.compress(content, 1), 4000)
    (into / "a.nii.gz").write_bytes(content)


def _text_header(rng: random.Random, content: bytes, end: int) -> bytes:
    """Replace values of a text header by unexpected ones."""
    lines = content[:end].split(b"\n")
    for _ in range(rng.choice((1, 1, 2))):
        n = rng.randrange(len(lines))
        for separator in (b" = ", b": "):
            key, found, value = lines[n].partition(separator)
            if found:
                new = rng.choice(
                    (*map(str, NASTY), "1000000 1000000 1", "(0,0,0)", "LIST", "../a.raw", "/dev/zero", "a%d.raw 1 9 1")
                )
                parts = value.split(b" ")
                parts[rng.randrange(len(parts))] = new.encode(errors="replace").replace(b"\n", b" ")
                lines[n] = key + separator + (b" ".join(parts) if rng.random() < 0.6 else parts[0])
    return b"\n".join(lines) + content[end:]


def _itk_bytes(rng: random.Random, into: Path, name: str) -> bytes:
    sitk.WriteImage(sitk.GetImageFromArray(_scan(rng)), str(into / name), useCompression=rng.random() < 0.5)
    return (into / name).read_bytes()


def _nrrd(rng: random.Random, into: Path) -> None:
    content = _itk_bytes(rng, into, "a.nrrd")
    end = content.index(b"\n\n")
    changed = _text_header(rng, content, end) if rng.random() < 0.7 else _spoil_bytes(rng, content, end)
    (into / "a.nrrd").write_bytes(changed)


def _mha(rng: random.Random, into: Path) -> None:
    content = _itk_bytes(rng, into, "a.mha")
    end = content.index(b"LOCAL") + 5
    changed = _text_header(rng, content, end) if rng.random() < 0.7 else _spoil_bytes(rng, content, end)
    (into / "a.mha").write_bytes(changed)


def _mhd(rng: random.Random, into: Path) -> None:
    content = _itk_bytes(rng, into, "a.mhd")
    (into / "a.mhd").write_bytes(_text_header(rng, content, len(content)))


def _dicom_file(path: Path, number: int, pixels: np.ndarray, uid: str, syntax=ExplicitVRLittleEndian, **tags) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, syntax
    meta.MediaStorageSOPInstanceUID = f"{uid}.{number + 1}"
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = CTImageStorage, f"{uid}.{number + 1}", uid
    data.Modality, data.Rows, data.Columns, data.PixelSpacing = "CT", *pixels.shape, [2.0, 2.0]
    data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2.0 * number]
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
    data.PhotometricInterpretation, data.RescaleSlope, data.RescaleIntercept = "MONOCHROME2", 1, 0
    data.SliceThickness, data.SeriesDescription, data.PixelData = 2.0, "<b>x</b>", pixels.tobytes()
    for key, value in tags.items():
        setattr(data, key, value)
    data.save_as(path, enforce_file_format=False)


def _dicom(rng: random.Random, into: Path) -> None:
    uid, scan = generate_uid(entropy_srcs=[str(rng.random())]), _scan(rng)
    for n in range(4):
        _dicom_file(into / f"{n}.dcm", n, scan[..., n], uid)
    path = into / f"{rng.randrange(4)}.dcm"
    if rng.random() < 0.5:
        path.write_bytes(_spoil_bytes(rng, path.read_bytes(), 1100))
    else:
        tags = {
            "Rows": 65535, "Columns": 0, "PixelSpacing": [0, 1e30], "ImagePositionPatient": [1e300, 0, 0],
            "BitsAllocated": 7, "ImageOrientationPatient": [0] * 6, "RescaleSlope": 1e308, "NumberOfFrames": 2**31 - 1,
            "SamplesPerPixel": 3, "PixelData": b"", "SeriesInstanceUID": "../../escaped",
            "SeriesDescription": "\x1b[2J", "BitsStored": 99,
            "PhotometricInterpretation": "PALETTE COLOR", "PixelRepresentation": 9, "SliceThickness": -1,
        }  # fmt: skip
        key = rng.choice(sorted(tags))
        for n in range(4) if rng.random() < 0.5 else (1,):
            _dicom_file(into / f"{n}.dcm", n, scan[..., n], uid, **{key: tags[key]})


def _zeros(header: bytes, mib: int, wbits: int = 31) -> bytes:
    """``header`` and ``mib`` MiB of zeros, compressed."""
    press = zlib.compressobj(1, wbits=wbits)
    first = press.compress(header) + press.flush(zlib.Z_FULL_FLUSH)
    block = press.compress(bytes(2**20)) + press.flush(zlib.Z_FULL_FLUSH)  # stands for itself, so it can be repeated
    return first + block * mib + press.flush()


def _bomb(rng: random.Random, into: Path) -> None:
    """Small files that claim, or decompress to, gigabytes."""
    way, mib = rng.randrange(5), 3000
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((2, 2, 2) if way == 0 else (1000, 1000, 3000))
    raw = bytearray(header.binaryblock + b"\0" * 4)
    raw[108:112] = struct.pack("<f", 352)
    if way == 1:  # an extension of 2 GiB, or without end
        raw[348:352], raw[108:112] = b"\1\0\0\0", struct.pack("<f", 2**31 if rng.random() < 0.5 else 1024)
        raw += struct.pack("<ii", rng.choice((2**31 - 1, 0, -16)), 6)
    if way <= 2:
        (into / "a.nii.gz").write_bytes(_zeros(bytes(raw), mib))
    elif way == 3:
        size = "1000 1000 3000" if rng.random() < 0.5 else "10 10 10"
        text = f"ObjectType = Image\nNDims = 3\nCompressedData = True\nDimSize = {size}\nElementType = MET_UCHAR\n"
        (into / "a.mha").write_bytes(f"{text}ElementDataFile = LOCAL\n".encode() + _zeros(b"", mib, 15))
    else:
        text = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 10 10 10\nencoding: gzip\n\n"
        (into / "a.nrrd").write_bytes(text.encode() + _zeros(b"", mib))


def _spoil_values(rng: random.Random, values):
    """A nested value with some entries replaced, removed or renamed."""
    values = json.loads(json.dumps(values))
    for _ in range(rng.choice((1, 1, 2, 3))):
        node = values
        while isinstance(node, dict | list) and node:
            key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if rng.random() < 0.5 or not isinstance(node[key], dict | list) or not node[key]:
                way = rng.random()
                if way < 0.8:
                    node[key] = rng.choice(NASTY)
                elif way < 0.9 and isinstance(node, dict):
                    node[rng.choice(("x", "", "../y", "é" * 99))] = node.pop(key)
                else:
                    del node[key]
                break
            node = node[key]
    return values


def _text(rng: random.Random, content: str) -> str:
    """The text, or now and then an invalid one."""
    deep, digits = "[" * 50_000, "1" * 6000
    return rng.choice((deep, digits, "", "{", content[: len(content) // 2])) if rng.random() < 0.15 else content


def _model(rng: random.Random, into: Path, model: Path) -> None:
    shutil.copytree(model, into / "model")
    path = into / "model/model.json"
    if rng.random() < 0.3:
        weights = into / "model/weights.safetensors"
        weights.write_bytes(_spoil_bytes(rng, weights.read_bytes(), 800))
        return
    values = json.loads(path.read_text())
    if rng.random() < 0.4:
        values["settings"]["method"] = _spoil_values(rng, values["settings"]["method"])
        spoilt = values["settings"]["method"]
        sections = [spoilt, *(v for v in spoilt.values() if isinstance(v, dict))]
        rng.choice(sections)[rng.choice(("filters", "levels", "name"))] = rng.choice((*NASTY, 10**5, 10**9))
    else:
        values = _spoil_values(rng, values)
    try:  # as an attacker would: with the hash that belongs to it
        values["sha256"] = ModelInfo.model_validate(values).hash()
    except (ValueError, AttributeError, TypeError):
        pass
    path.write_text(_text(rng, json.dumps(values)))


def _config(rng: random.Random, into: Path) -> None:
    text = yaml.safe_dump(_spoil_values(rng, CONFIG), allow_unicode=True)
    if rng.random() < 0.2:
        laughs = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 10))
        text = rng.choice((
            "a: &a [*a]", "method: &m {name: pix2pix, x: *m}", "l0: &l0 [x]\n" + laughs + "method: *l9",
            "data: 2001-99-99", "method: !!python/object/apply:os.system ['touch escaped']", "? [a]\n: b",
            "data: !!binary x", "\x07: 1",
            "method: !!python/name:os.system", "a: !!set {b}", "data: {root: \"\\0\"}", "%YAML 9.9\n---\na: 1",
        ))  # fmt: skip
    (into / "config.yaml").write_bytes(_text(rng, text).encode(errors="surrogatepass"))


def _datalist(rng: random.Random, into: Path) -> None:
    (into / "a.nii.gz").write_bytes(gzip.compress(_nifti_bytes(rng), 1))
    entry = {"source": "a.nii.gz", "target": "a.nii.gz", "label": "a.nii.gz", "patient": "p", "name": "case"}
    content = {"training": [entry, {**entry, "name": "b"}], "validation": [], "labels": {"liver": 1, "lesion": 2}}
    content = _spoil_values(rng, content)
    if rng.random() < 0.3 and isinstance(content.get("training"), list):
        content["training"] = [{**entry, "name": rng.choice(NAMES)}]
    (into / "list.json").write_text(_text(rng, json.dumps(content)))


def _labels(rng: random.Random, into: Path) -> None:
    for name in ("source", "target", "labels"):
        (into / name).mkdir()
        (into / name / "a.nii.gz").write_bytes(gzip.compress(_nifti_bytes(rng), 1))
    (into / "labels.json").write_text(_text(rng, json.dumps(_spoil_values(rng, {"liver": 1, "1": "x", "lesion": 2}))))


def _manifest(rng: random.Random, into: Path) -> None:
    record = {"case": "a", "status": "converted", "output": "a.nii", "output_sha256": "0" * 64, "warnings": []}
    about = {"format": FORMAT, "model": {"sha256": "", "target": None}}
    content = _spoil_values(rng, {**about, "cases": {"a": record, "../../b": record}})
    lines = [{"model": {"sha256": "", "target": None}}, {"case": "a", "record": record}]
    (into / "manifest.json").write_text(_text(rng, json.dumps(content)))
    (into / "manifest.journal").write_text("\n".join(_text(rng, json.dumps(_spoil_values(rng, x))) for x in lines))


def _name(rng: random.Random, into: Path) -> None:
    name = rng.choice(NAMES).replace("/", "\\")
    (into / f"{name}.nii").write_bytes(_nifti_bytes(rng))


def save_small_model(model, folder: Path) -> Path:
    """Save a model from memory to a folder, for damaging."""
    folder.mkdir(parents=True)
    save_model(folder, model.generator, model.info)
    return folder
