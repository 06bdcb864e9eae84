"""Bad inputs of every kind, each given to the script that reads it, and the line that comes out.

    python tests/robustness.py > docs/robustness.md

writes those in `SHOWN`; `test_robustness.py` runs all entries and holds the page to their lines.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import logging
import os
import pickle
import re
import resource
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from programs import TINY, run_script
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tcurlora_seg.data.simulate import simulate

HERE = Path(__file__).resolve().parent.parent
LORA = "tcurlora_seg.adapters.lora.LoRA"
IMAGE = "LPBA40/delineation_space/S01/S01.delineation.skullstripped"
LABEL = "LPBA40/delineation_space/S01/S01.delineation.structure.label"
CORE = "adapters.up.core"


@dataclass
class Lab:
    """One simulated cohort, one trained run, and a new folder for each entry to spoil copies in."""

    root: Path
    number: int = 0
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @cached_property
    def cohort(self) -> Path:
        simulate("lpba40", self.root / "cohort", subjects=7, seed=0, spacing=8.0)
        return self.root / "cohort"

    @cached_property
    def run(self) -> Path:
        folders = (f"dataset.root={self.cohort}", f"outputs={self.root}", f"output={self.root / 'run'}")
        assert self._call("train", *TINY, *folders, "test=null", "adapter.rank=2")[0] == 0
        return self.root / "run"

    @cached_property
    def other_base(self) -> Path:
        (used,) = (self.run.parent / "bases").iterdir()
        tensors = {name: tensor + 1 for name, tensor in load_file(used).items()}
        save_file(tensors, self.root / "other_base.safetensors")
        return self.root / "other_base.safetensors"

    @property
    def folder(self) -> Path:
        folder = self.root / f"{self.number}"
        folder.mkdir(exist_ok=True)
        return folder

    def data(self) -> Path:
        """A cohort of one's own to break."""
        return Path(shutil.copytree(self.cohort, self.folder / "data"))

    def finished(self) -> Path:
        """A run of one's own to break."""
        return Path(shutil.copytree(self.run, self.folder / "run"))

    def train(self, *arguments: object) -> list[str]:
        folders = (f"dataset.root={self.cohort}", f"outputs={self.folder}", "test=null")
        return ["train", *TINY, *folders, *map(str, arguments)]

    def predict(self, **changes: object) -> list[str]:
        given = {"checkpoint": self.run, "input": self.cohort / f"{IMAGE}.hdr", "output": self.folder / "out"}
        return ["predict", "device=cpu", *(f"{key}={value}" for key, value in {**given, **changes}.items())]

    def try_out(self, entry: Entry) -> str:
        """Give an entry to its script, require that it is refused and harms nothing, and return the line."""
        self.number += 1
        script, *arguments = entry.make(self)
        before = self._files()
        with self.held:
            code, line = self._call(script, *arguments)
        after = self._files()
        assert code == 1, (code, line)
        assert "Traceback" not in line and 1 <= len(line.splitlines()) <= 2, line
        assert all(after.get(path) == digest for path, digest in before.items()), "a file has changed"
        made = [p.name for p in after.keys() - before.keys()]
        assert not {"model.safetensors", "metrics.json", "EXECUTED"} & {*made}, made
        assert not [name for name in made if name.endswith((".nii", ".nii.gz"))], made
        assert not [name for name in made if ".partial." in name], made
        assert re.search(entry.words, line, re.DOTALL), line
        return self._anonymous(line)

    @cached_property
    def volumes(self) -> dict[str, str]:
        """The line that each bad volume gives, all of them in one folder with one that is good."""
        self.number += 1
        arguments = self.predict(input=self.folder / "images")
        folder = self.folder / "images"
        folder.mkdir()
        for entry in VOLUMES:
            entry.write(folder)
        nib.save(_volume(), folder / "sound.nii.gz")
        code, lines = self._call(*arguments)
        assert code == 1 and "Traceback" not in lines
        written = sorted(path.name for path in (self.folder / "out").iterdir())
        assert written == ["labels.json", "predictions.csv", "sound.nii.gz"], written
        found = dict(re.findall(r"^error: \[\d+/\d+\] (\S+): (.*)$", lines, re.MULTILINE))
        return {name: self._anonymous(f"error: {line}") for name, line in found.items()}

    def _call(self, script: str, *arguments: str) -> tuple[int, str]:
        """Exit code, and what was said of errors."""
        printed, told = io.StringIO(), io.StringIO()
        with (pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(),
              contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told)):  # fmt: skip
            warnings.simplefilter("ignore")
            code = run_script(script, *arguments, monkeypatch=patch)
        return code, told.getvalue().strip()

    def _files(self) -> dict[Path, str]:
        """What lies in this entry's folder, in the cohort and in the run; a folder's lock comes and goes."""
        places = [place for place in (self.folder, self.root / "cohort", self.root / "run") if place.is_dir()]
        files = [path for place in places for path in place.rglob("*") if path.is_file() and path.name != ".lock"]
        return {path: f"{path.stat().st_size} {hashlib.md5(_beginning(path)).hexdigest()}" for path in files}

    def _anonymous(self, line: str) -> str:
        line = re.sub(rf"{re.escape(str(self.root))}(/\d+)?", "DIR", line)
        line = re.sub(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", "TIME", line.replace(f"{HERE}/", ""))
        return re.sub(r"\b[0-9a-f]{64}\b", "HASH", re.sub(r"process \d+", "process N", line))


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2_000_000)


@dataclass(frozen=True)
class Entry:
    """One bad input: its group and title in the list, what the line must say, and the script with its arguments."""

    group: str
    title: str
    words: str
    make: Callable[[Lab], list[str]]


@dataclass(frozen=True)
class Volume:
    """One bad image file."""

    name: str
    title: str
    words: str
    write: Callable[[Path], Any]


def _argument(argument: str, words: str) -> Entry:
    return Entry("The command line", f"`{argument}`", words, lambda lab: lab.train(*argument.split()))


ARGUMENTS = [
    _argument("dataset.root=/nowhere", r"/nowhere.*LONI.*prepare_data\.py dataset=lpba40 .*simulate="),
    _argument("adapter.rnk=4", r"no key 'adapter\.rnk'; did you mean 'adapter\.rank'"),
    _argument("trainer.max_step=3", r"no key 'trainer\.max_step'; did you mean 'trainer\.max_steps'"),
    _argument("trainer={max_stps:3}", r"no key 'trainer\.max_stps'; did you mean 'trainer\.max_steps'"),
    _argument("adapter.stacks={mine:{roles:[q]}}", r"\+adapter\.stacks\.mine=\.\.\. adds one"),
    _argument("adapter.stacks.attention.rols=[q]", r"did you mean 'adapter\.stacks\.attention\.roles'"),
    _argument("adpter=lora", r"'adpter'; did you mean 'adapter'"),
    _argument("adapter=lra", r"adapter=lra does not exist; choose from .*lora"),
    _argument("+adapter.foo=1", r"no key 'adapter\.foo'"),
    _argument("+dataset.foo=1", r"no key 'dataset\.foo'.*it takes root, task"),
    _argument("rank", r"'rank'"),
    _argument("trainer.max_steps=many", r"trainer\.max_steps='many'.*whole number"),
    _argument("trainer.max_steps=0", r"trainer\.max_steps=0"),
    _argument("seed=x", r"seed='x'.*whole number"),
    _argument("adapter.rank=two", r"rank='two'.*int"),
    _argument("adapter.rank=0", r"rank=0 is not possible.*1 to 24"),
    _argument("adapter.rank=25", r"rank=25 is not possible.*1 to 24"),
    _argument("adapter.stacks.up.roles=[upp]", r"unknown role 'upp': choose from q, k, v, qkv, o, up, down"),
    _argument("adapter.stacks.up.roles=[q]", r"both adapt rows of vit\.blocks\.0\.attn\.qkv"),
    _argument("adapter=dora adapter.rank=25", r"rank=25 is not possible.*1 to 24"),
    _argument("+adapter.stacks.up.rank=25", r"rank=25 is not possible.*1 to 24"),
    _argument("+adapter.stacks.up.rank=two", r"adapter\.stacks\.up\.rank='two' .*a whole number"),
    _argument("adapter.stacks.up.roles=[norm1]", r"stacks\.up: TCURLoRA adapts matrices, but norm1 are the vectors"),
    _argument("+adapter.stacks.more={roles:[down]}", r"stack '(down|more)' .*and stack '(down|more)'"),
    _argument(f"+adapter.stacks.up.method={{_target_:{LORA},rnk:2}}", r"no key 'adapter\.stacks\.up\.method\.rnk'"),
    _argument(f"+adapter.stacks.up.method={{_target_:{LORA}x}}", r"_target_ .*LoRAx: .*has no LoRAx"),
    _argument("+adapter.stacks.up.method={rank:2}", r"adapter\.stacks\.up has no method"),
    _argument("adapter=adalora adapter.rank=8 adapter.method.initial_rank=4", r"initial_rank=4: choose rank=8 to 24"),
    _argument("adapter=adalora adapter.rank=8 adapter.method.warmup=0.9", r"warmup=0\.9, final=0\.5"),
    _argument("adapter.blocks=[12]", r"blocks=\[12\].*0 to 11"),
    _argument("model.img_size=[60,64,64]", r"model\.img_size=\[60, 64, 64\].*multiple of 16"),
    _argument("model.num_heads=5", r"hidden_size=24 must be a multiple of model\.num_heads=5"),
    _argument("pretrained=/nowhere.pt", r"pretrained=/nowhere\.pt is not a file"),
    _argument("pretrained=builtin", r"these weights are unetr_small's .*pretrained=random or a file"),
    _argument("adapter.trainable=[decodr*.**]", r"'decodr\*\.\*\*' matches no parameter"),
    _argument("adapter.trainable=[vit.**]", r"would train vit\.blocks.*an adapter needs it frozen"),
    _argument("split.scheme=halves", r"split\.scheme=halves"),
    _argument("split.scheme=shots split.shots=7", r"split\.shots=7"),
    _argument("split.validation=9", r"split\.validation=9"),
    _argument("training.patience=3", r"training\.patience=3 needs.*split\.validation"),
    _argument("dataset.task=brain", r"dataset\.task=brain.*hippocampus"),
    _argument("training.loss=l2", r"training\.loss='l2'.*dice_ce"),
    _argument("resume=/nowhere", r"resume=/nowhere is no run directory"),
    _argument("trainer.precision=bf16-true", r"precision=bf16-true would round the frozen base.*bf16-mixed"),
    _argument("dataset.root=a;b", r"dataset\.root=a;b cannot be read: .*two kinds of quotes"),
    _argument("dataset.root=/a,/b", r"a comma divides the values of a sweep"),
    _argument("test=all", r"test=all: choose train, val or test"),
    Entry("The command line", "`evaluate` without a checkpoint", r"a value is needed: checkpoint=",
          lambda lab: ["evaluate"]),
    Entry("The command line", "`evaluate checkpoint=RUN adapter.rank=3`", r"no key 'adapter\.rank'",
          lambda lab: ["evaluate", f"checkpoint={lab.run}", "adapter.rank=3"]),
]  # fmt: skip


def _manifest(title: str, words: str, edit: Callable[[dict[str, Any], Path], Any], *arguments: str) -> Entry:
    """A manifest.json whose content `edit(content, root)` changes in place, or gives as text."""

    def make(lab: Lab) -> list[str]:
        root = lab.data()
        content = json.loads((root / "manifest.json").read_text())
        text = edit(content, root)
        (root / "manifest.json").write_text(text if isinstance(text, str) else json.dumps(content))
        return lab.train(f"dataset.root={root}", *arguments)

    return Entry("Data folders and manifests", title, words, make)


def _folder(title: str, words: str, harm: Callable[[Path], Any], *arguments: str) -> Entry:
    """A data folder without manifest that `harm` does something to."""

    def make(lab: Lab) -> list[str]:
        root = lab.data()
        (root / "manifest.json").unlink()
        harm(root)
        return lab.train(f"dataset.root={root}", "split.scheme=shots", "split.shots=6", *arguments)

    return Entry("Data folders and manifests", title, words, make)


def _first(**changes: object) -> Callable[[dict[str, Any], Path], None]:
    return lambda content, root: content["cases"][0].update(changes)


def _one_patient(content: dict[str, Any], root: Path) -> None:
    ids = [case["id"] for case in content["cases"]]
    for case in content["cases"][:2]:
        case["patient"] = "one"
    content["splits"] = {"mine": {"train": ids[:1], "val": [], "test": ids[1:]}}


def _link(content: dict[str, Any], root: Path) -> None:
    shutil.copy(root / f"{IMAGE}.hdr", root.parent / "outside.nii")
    (root / "inside.nii").symlink_to(root.parent / "outside.nii")
    content["cases"][0]["images"] = {"t1": "inside.nii"}


def _huge(lab: Lab) -> list[str]:
    root = lab.data()
    os.truncate(root / "manifest.json", 10**12)  # a sparse file: it takes no disk
    return lab.train(f"dataset.root={root}")


def _emptied(lab: Lab) -> list[str]:
    (lab.folder / "file").touch()
    return lab.train(f"dataset.root={lab.folder / 'file'}")


def _other_label(root: Path) -> None:
    """A finer label, as from another release."""
    array = np.zeros((9, 9, 9), np.int16)
    for ending in (".hdr", ".img.gz"):
        (root / f"{LABEL}{ending}").unlink()
    nib.save(nib.Nifti1Image(array, np.eye(4)), root / f"{LABEL}.nii")


def _label_values(value: float) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        from tcurlora_seg.data.volume import read_volume

        voxels, affine = read_volume(root / f"{LABEL}.hdr")
        voxels = voxels.astype(np.float32)
        voxels[0, 0, 0] = value
        (root / f"{LABEL}.hdr").unlink()
        nib.save(nib.Nifti1Image(voxels, affine), root / f"{LABEL}.nii")

    return harm


def _nifti_image(*, sheared: bool = False, moved: float = 0.0, unit: str = "mm") -> Callable[[Path], None]:
    """Exchange the first image for a NIfTI file with something wrong in its header."""

    def harm(root: Path) -> None:
        from tcurlora_seg.data.volume import read_volume

        voxels, affine = read_volume(root / f"{IMAGE}.hdr")
        affine[0, 1] += 2.0 * sheared
        affine[0, 3] += moved
        image = nib.Nifti1Image(voxels, affine)
        image.header.set_xyzt_units(unit)
        for ending in (".hdr", ".img.gz"):
            (root / f"{IMAGE}{ending}").unlink()
        nib.save(image, root / f"{IMAGE}.nii")

    return harm


def _link_out(root: Path) -> None:
    outside = root.parent / "elsewhere.img.gz"
    (root / f"{IMAGE}.hdr").rename(outside)
    (root / f"{IMAGE}.hdr").symlink_to(outside)


def _cut(path: str, size: int) -> Callable[[Path], None]:
    return lambda root: os.truncate(root / path, size)


DATA = [
    Entry("Data folders and manifests", "the root is a file", r"file is a file; expected the folder", _emptied),
    _manifest("not JSON", r"manifest\.json is not valid JSON", lambda content, root: "{"),
    _manifest("a list", r"not a manifest of format 1", lambda content, root: "[]"),
    _manifest("JSON in 100,000 brackets", r"not valid JSON", lambda content, root: "[" * 100_000),
    Entry("Data folders and manifests", "a terabyte of JSON", r"1,000,000,000,000 bytes: too many", _huge),
    _manifest("of a later format", r"format 1", lambda content, root: content.update(format=2)),
    _manifest("of another data set", r"is a manifest of brats2021", lambda c, root: c.update(dataset="brats2021")),
    _manifest("no cases", r"nothing under", lambda content, root: content.update(cases=[])),
    _manifest("an id that is a number", r"of the wrong kind .*'5'", _first(id=5)),
    _manifest("an id that is a path", r"'\.\./x' is no name for a file", _first(id="../x")),
    _manifest("images in a list", r"of the wrong kind", _first(images=["a.nii"])),
    _manifest("an absolute path", r"/etc/passwd of case S01 leaves the root", _first(images={"t1": "/etc/passwd"})),
    _manifest("a path with ..", r"\.\./x\.nii of case S01 leaves the root", _first(images={"t1": "../x.nii"})),
    _manifest("a link out of the root", r"inside\.nii of case S01 is a link to .*outside\.nii", _link),
    _manifest("a file that has moved", r"gone\.nii of case S01 is not under", _first(images={"t1": "gone.nii"})),
    _manifest("a case listed twice", r"the case S02 is listed twice", _first(id="S02")),
    _manifest("a patient on two sides", r"patient one is both in train and in test", _one_patient, "split.scheme=mine"),
    _manifest("an image that is a pickle", r"none of the images that are read", _first(images={"t1": "manifest.json"})),
    _folder("labels without images", r"none of 7 case\(s\).*S01.*label without an image",
            lambda root: [path.unlink() for path in root.rglob("*skullstripped*")]),
    _folder("image and label of different shape", r"S01.*shape.*\(9, 9, 9\)", _other_label),
    _folder("a label with fractions", r"S01.*label values 0\.5 are no whole numbers", _label_values(0.5)),
    _folder("a label with NaN", r"S01.*label values nan are no whole numbers", _label_values(float("nan"))),
    _folder("an image with slanting axes", r"S01.*not at right angles", _nifti_image(sheared=True)),
    _folder("a label .1 voxels away from its image", r"S01.*lie on different grids", _nifti_image(moved=0.8)),
    _folder("a header in metres that are none", r"S01.*voxels of 8000 x .* mm, its header in metres; expected",
            _nifti_image(unit="meter")),
    _folder("a link to images elsewhere", r"is a link to .*dataset\.outside_root=true follows them", _link_out),
    _folder("a target that preparation makes vanish", r"no training case has a voxel of dataset\.task=hippocampus",
            lambda root: None, "dataset.preparation.spacing=[60,60,60]"),
    _folder("an image cut off", r"S01.*cannot be read", _cut(f"{IMAGE}.img.gz", 500)),
    _folder("an Analyze header cut off", r"S01.*cannot be read", _cut(f"{IMAGE}.hdr", 100)),
]  # fmt: skip


def _volume(array: np.ndarray | None = None, affine: np.ndarray | None = None, **fields: object) -> nib.Nifti1Image:
    """A small head that could be segmented, with header fields overwritten."""
    if array is None:
        array = np.random.default_rng(0).integers(1, 900, (20, 20, 20)).astype(np.int16)
    image = nib.Nifti1Image(array, np.diag([8.0, 8.0, 8.0, 1.0]) if affine is None else affine)
    for name, value in fields.items():
        image.header[name] = value
    return image


def _raw(**fields: object) -> Callable[[Path], bytes]:
    """A file whose header says what nibabel would not write."""
    image = _volume()
    header = image.header.copy()
    voxels = image.to_bytes()[352:]
    header["vox_offset"] = 352
    for name, value in fields.items():
        header[name] = value
    return lambda path: path.write_bytes(header.binaryblock + bytes(4) + voxels)  # type: ignore[return-value]


def _bad(name: str, title: str, words: str, write: Callable[[Path], Any]) -> Volume:
    return Volume(name, title, words, lambda folder: write(folder / name))


def _bytes(content: Callable[[], bytes]) -> Callable[[Path], int]:
    return lambda path: path.write_bytes(content())


def _whole() -> bytes:
    return _volume().to_bytes()


def _packed_promise(path: Path) -> None:
    _raw(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def _scaled(value: float) -> Callable[[Path], None]:
    return lambda path: nib.save(_volume(np.full((20, 20, 20), value, np.float32)), path)


def _hdf5(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["minc-2.0/image/0/image"] = np.zeros((2, 2, 2))


NAN, INF = float("nan"), float("inf")
VOLUMES = [
    _bad("empty.nii", "an empty file", "cannot be read", _bytes(bytes)),
    _bad("empty.nii.gz", "an empty .nii.gz", "cannot be read", _bytes(bytes)),
    _bad("text.nii.gz", "a text named .nii.gz", "cannot be read", _bytes(lambda: b"no image at all\n")),
    _bad("zeros.nii", "a thousand zeros", "cannot be read", _bytes(lambda: bytes(1000))),
    _bad("npz.nii", "numpy's .npz renamed", "cannot be read", lambda path: np.savez(path.open("wb"), a=np.zeros(9))),
    _bad("pickle.nii", "a pickle renamed", "cannot be read", _bytes(lambda: pickle.dumps([Code("x")]))),
    _bad("header.nii", "a header cut off", "cannot be read", _bytes(lambda: _whole()[:200])),
    _bad("cut.nii", "a .nii cut off", "promises 16,000 bytes of voxels, more than", _bytes(lambda: _whole()[:5000])),
    _bad("cut.nii.gz", "a .nii.gz cut off", "cannot be read", _bytes(lambda: gzip.compress(_whole())[:3000])),
    _bad("flipped.nii.gz", "a .nii.gz with bytes changed", "cannot be read",
         _bytes(lambda: gzip.compress(_whole())[:10] + bytes([255] * 9) + gzip.compress(_whole())[19:])),
    _bad("terabytes.nii", "a header that promises terabytes", "promises 54,000,000,000,000 bytes",
         _raw(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])),
    _bad("terabytes.nii.gz", "the same, packed", "promises 54,000,000,000,000 bytes", _packed_promise),
    _bad("flat.nii", "an axis of no voxels", "each of at least one voxel", _raw(dim=[3, 20, 0, 20, 1, 1, 1, 1])),
    _bad("negative.nii", "an axis of -20 voxels", "cannot be read|at least one voxel",
         _raw(dim=[3, 20, -20, 20, 1, 1, 1, 1])),
    _bad("slice.nii", "two axes", "expected three axes", _raw(dim=[2, 20, 20, 1, 1, 1, 1, 1])),
    _bad("series.nii", "a series of two volumes", r"holds \d volume\(s\); expected 1",
         _raw(dim=[4, 20, 20, 10, 2, 1, 1, 1])),
    _bad("five.nii", "five axes", r"holds \d volume\(s\); expected 1", _raw(dim=[5, 20, 20, 5, 2, 2, 1, 1])),
    _bad("complex.nii", "complex numbers", "holds complex numbers", _raw(datatype=32, bitpix=64)),
    _bad("colours.nii", "colours", "holds colours", _raw(datatype=128, bitpix=24)),
    _bad("unknown.nii", "an unknown data type", "cannot be read", _raw(datatype=7)),
    _bad("spacing0.nii", "a voxel size of 0", "voxels of 8 x 0 x 8 mm", _raw(pixdim=[1, 8, 0, 8, 1, 1, 1, 1])),
    _bad("spacing-.nii", "a voxel size below 0", "voxels of 8 x -8 x 8 mm", _raw(pixdim=[1, 8, -8, 8, 1, 1, 1, 1])),
    _bad("spacing_nan.nii", "a voxel size of NaN", "8 x nan x 8 mm", _raw(pixdim=[1, 8, NAN, 8, 1, 1, 1, 1])),
    _bad("affine_nan.nii", "an affine with NaN", "affine holds NaN", _raw(srow_x=[8, 0, NAN, 0])),
    _bad("affine_inf.nii", "an infinite offset", "affine holds NaN or inf", _raw(srow_x=[8, 0, 0, INF])),
    _bad("affine_flat.nii", "a singular affine", "affine flattens", _raw(srow_x=[0, 8, 0, 0])),
    _bad("sheared.nii", "slanting axes", "not at right angles", _raw(srow_x=[8, 2, 0, 0])),
    _bad("huge.nii", "voxels of two metres", "voxels of 2000 x 8 x 8 mm; expected", _raw(srow_x=[2000, 0, 0, 0])),
    _bad("metres.nii", "millimetres called metres", "voxels of 8000 x 8000 x 8000 mm, its header in metres",
         _raw(xyzt_units=1)),
    _bad("letters.mgz", "a text named .mgz", "cannot be read", _bytes(lambda: b"no image at all\n")),
    _bad("prose.nrrd", "a text named .nrrd", "cannot be read", _bytes(lambda: b"no image at all\n")),
    _bad("elsewhere.nrrd", "an .nrrd that points to another file", "its voxels lie in another file",
         _bytes(lambda: b"NRRD0004\ntype: short\ndimension: 3\nsizes: 9 9 9\nencoding: raw\ndata file: a.raw\n\n")),
    _bad("offset.nii", "voxels that begin at infinity", "cannot be read", _raw(vox_offset=INF)),
    _bad("black.nii", "0 everywhere", "no .*above 0", _scaled(0)),
    _bad("grey.nii", "1 everywhere", "no two different intensities", _scaled(1)),
    _bad("nan.nii", "NaN everywhere", "NaN or infinite values", _scaled(NAN)),
    _bad("words.mnc", "a text named .mnc", "cannot be read", _bytes(lambda: b"no image at all\n")),
    _bad("hdf5.mnc", "HDF5 that is no MINC", "cannot be read", _hdf5),
    _bad("hdf5_cut.mnc", "HDF5 cut off", "cannot be read",
         lambda path: (_hdf5(path), os.truncate(path, 600))),
    _bad("alone.hdr", "an Analyze header without its voxels", r"its \.img or \.img\.gz is missing",
         _bytes(lambda: bytes(348))),
]  # fmt: skip


@dataclass
class Code:
    """What unpickling would run: it makes the file that no entry may leave behind."""

    marker: str

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


def _weights(name: str, title: str, words: str, write: Callable[[Path, Lab], Any]) -> Entry:
    def make(lab: Lab) -> list[str]:
        path = lab.folder / name
        write(path, lab)
        return lab.train(f"pretrained={path}")

    return Entry("Pre-trained weights", title, words, make)


def _base(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path, Lab], None]:
    def write(path: Path, lab: Lab) -> None:
        tensors = load_file(lab.other_base)
        edit(tensors)
        save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)

    return write


def _claims(path: Path, lab: Lab) -> None:
    """A safetensors header by which four bytes are a terabyte."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


EMBEDDING = "vit.patch_embedding.position_embeddings"
WEIGHTS = [
    _weights("code.pt", "a pickle with code in it: it is not run", "holds a pickled .* which could run code",
             lambda path, lab: torch.save({"a": Code(str(lab.folder / "EXECUTED"))}, path)),
    _weights("plain.pt", "a bare pickle with code in it", "damaged or holds more than tensors|could run code",
             lambda path, lab: path.write_bytes(pickle.dumps(Code(str(lab.folder / "EXECUTED"))))),
    _weights("cut.pt", "a .pt cut off", "damaged",
             lambda path, lab: (_base(len)(path, lab), os.truncate(path, 20_000))),
    _weights("cut.safetensors", "a .safetensors cut off", "damaged",
             lambda path, lab: (_base(len)(path, lab), os.truncate(path, 20_000))),
    _weights("text.pt", "a text", "damaged", lambda path, lab: path.write_text("weights")),
    _weights("a.npz", "a file of another kind", "a .safetensors file or one of .pt, .pth",
             lambda path, lab: path.write_text("weights")),
    _weights("claims.safetensors", "a header that promises terabytes", "damaged", _claims),
    _weights("header.safetensors", "a header of 2^60 bytes", "damaged",
             lambda path, lab: path.write_bytes((2**60).to_bytes(8, "little") + b"{}")),
    _weights("stride.pt", "a tensor of 10^12 elements in four bytes", "holds no state dict",
             lambda path, lab: torch.save({"a": torch.zeros(1).expand(10**12)}, path)),
    _weights("sparse.pt", "a sparse tensor of 10^12 elements", "holds no state dict|damaged",
             lambda path, lab: torch.save({"a": torch.sparse_coo_tensor(size=(10**6, 10**6))}, path)),
    _weights("list.pt", "a list", "holds no state dict", lambda path, lab: torch.save([torch.zeros(2)], path)),
    _weights("names.pt", "names that are numbers", "holds no state dict",
             lambda path, lab: torch.save({1: torch.zeros(2)}, path)),
    _weights("other.pt", "of another architecture", "does not fit the network",
             lambda path, lab: torch.save({"conv.weight": torch.zeros(2, 2)}, path)),
    _weights("missing.pt", "a tensor missing", rf"{EMBEDDING} is missing", _base(lambda t: t.pop(EMBEDDING))),
    _weights("surplus.pt", "a tensor too many", "extra is surplus", _base(lambda t: t.update(extra=torch.zeros(2)))),
    _weights("shape.pt", "a tensor of another shape", "is 7 x 7, the network's",
             _base(lambda t: t.update({"vit.blocks.0.mlp.linear1.weight": torch.zeros(7, 7)}))),
    _weights("nan.safetensors", "a tensor with NaN", "not finite", _base(lambda t: t[EMBEDDING].fill_(NAN))),
    _weights("int.safetensors", "whole numbers", "not finite numbers",
             _base(lambda t: t.update({EMBEDDING: t[EMBEDDING].int()}))),
    _weights("whole.pth", "a whole pickled network", r"holds a pickled torch\.nn\..*save network\.state_dict\(\)",
             lambda path, lab: torch.save(torch.nn.Linear(2, 2), path)),
    _weights("run.safetensors", "the model file of a run", "is the file of a run: merge it with scripts/export",
             lambda path, lab: shutil.copy(lab.run / "model.safetensors", path)),
]  # fmt: skip


def _model(title: str, words: str, edit: Callable[[dict[str, torch.Tensor], dict[str, Any]], Any]) -> Entry:
    """The model file of a run, with tensors and notes changed."""

    def make(lab: Lab) -> list[str]:
        run = lab.finished()
        path = run / "model.safetensors"
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            notes = json.loads(file.metadata()["tcurlora_seg"])
        edit(tensors, notes)
        save_file(tensors, path, metadata={"tcurlora_seg": json.dumps(notes)})
        return lab.predict(checkpoint=run)

    return Entry("Model files", title, words, make)


def _model_file(title: str, words: str, harm: Callable[[Path], Any]) -> Entry:
    def make(lab: Lab) -> list[str]:
        run = lab.finished()
        harm(run / "model.safetensors")
        return lab.predict(checkpoint=run)

    return Entry("Model files", title, words, make)


MODELS = [
    _model("a tensor missing", rf"{CORE} is missing", lambda t, n: t.pop(CORE)),
    _model("a tensor too many", "extra is surplus", lambda t, n: t.update(extra=torch.zeros(1))),
    _model("a wrong shape", "has shape", lambda t, n: t.update({CORE: torch.zeros(12, 2, 3)})),
    _model("a wrong type", r"torch\.float64 instead of", lambda t, n: t.update({CORE: t[CORE].double()})),
    _model("NaN", "not finite", lambda t, n: t[CORE].fill_(NAN)),
    _model("an index too large", "outside a weight", lambda t, n: t["adapters.up.rows"].fill_(48)),
    _model("an index below 0", "outside a weight", lambda t, n: t["adapters.up.columns"].fill_(-1)),
    _model("of other stacks", "has the stacks", lambda t, n: n["stacks"].pop("up")),
    _model("for another base", "was trained on the base", lambda t, n: n.update(base="0" * 64)),
    _model("of a later format", "format 2; this version reads 1", lambda t, n: n.update(format=2)),
    _model("a spacing of the wrong kind", "spacing", lambda t, n: n.update(spacing=[1, 1, 1])),
    _model_file("cut off", "damaged", lambda path: os.truncate(path, 3000)),
    _model_file("a text", "damaged", lambda path: path.write_text("weights")),
    _model_file("without this package's notes", "no model file of this package",
                lambda path: save_file(load_file(path), path)),
    _model_file("a header that promises terabytes", "damaged", lambda path: _claims(path, None)),  # type: ignore[arg-type]
    Entry("Model files", "the run's base exchanged", "was trained on the base [0-9a-f]{64}",
          lambda lab: lab.predict(pretrained=lab.other_base)),
]  # fmt: skip


def _run_directory(title: str, words: str, harm: Callable[[Path], Any], script: str = "predict") -> Entry:
    def make(lab: Lab) -> list[str]:
        run = lab.finished()
        harm(run)
        if script == "resume":
            (run / "metrics.json").unlink()
            (run / "model.safetensors").unlink()
            return ["train", f"resume={run}"]
        return lab.predict(checkpoint=run) if script == "predict" else ["evaluate", f"checkpoint={run}"]

    return Entry("Run directories", title, words, make)


def _configured(key: str, value: Any) -> Callable[[Path], None]:
    def harm(run: Path) -> None:
        config = OmegaConf.load(run / "config.yaml")
        OmegaConf.update(config, key, value, force_add=True)
        OmegaConf.save(config, run / "config.yaml")

    return harm


def _referring(run: Path) -> None:
    _configured("inference.x", {"_target_": "tcurlora_seg.files.write_text", "path": "EXECUTED", "text": "x"})(run)
    _configured("dataset.preparation", "${inference.x}")(run)


def _checkpoints(write: Callable[[Path], Any]) -> Callable[[Path], None]:
    return lambda run: [write(run / "checkpoints" / name) for name in ("last.ckpt", "previous.ckpt")]  # type: ignore


def _locked(lab: Lab) -> list[str]:
    run = lab.finished()
    (run / "metrics.json").unlink()
    (run / "model.safetensors").unlink()
    lock = lab.held.enter_context((run / ".lock").open("w"))
    lock.write("4711\n")
    lock.flush()
    fcntl.flock(lock, fcntl.LOCK_EX)
    return ["train", f"resume={run}"]


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
RUNS = [
    Entry("Run directories", "an empty folder", r"is no finished run: it has no config\.yaml",
          lambda lab: lab.predict(checkpoint=lab.folder)),
    _run_directory("no split.json", r"it has no split\.json", lambda run: (run / "split.json").unlink(), "evaluate"),
    _run_directory("a split.json with an unknown case", r"the case S99 of .* is no longer in",
                   lambda run: (run / "split.json").write_text('{"test": ["S99"]}'), "evaluate"),
    _run_directory("a split.json that is a list", r"split\.json", lambda run: (run / "split.json").write_text("[]"),
                   "evaluate"),
    _run_directory("a config.yaml that is no YAML", r"config\.yaml is not a readable configuration",
                   lambda run: (run / "config.yaml").write_text("a: [")),
    _run_directory("an empty config.yaml", r"config\.yaml", lambda run: (run / "config.yaml").write_text("")),
    _run_directory("a config.yaml by which 12 lines stand for 9^12", r"config\.yaml .*aliases",
                   lambda run: (run / "config.yaml").write_text(BOMB)),
    _run_directory("a config.yaml that names code", r"dataset\._target_=os\.system is no part",
                   _configured("dataset._target_", "os.system")),
    _run_directory("a config.yaml that names code of ours that is no such part", r"write_text is no part",
                   _configured("model._target_", "tcurlora_seg.files.write_text")),
    _run_directory("a config.yaml that names code by a reference", r"write_text is no part", _referring),
    _run_directory("going on with a config.yaml that names code", r"trainer\._target_=os\.system is no part",
                   _configured("trainer._target_", "os.system"), "resume"),
    _run_directory("a config.yaml whose base is gone", r"/nowhere\.safetensors is not a file",
                   _configured("pretrained", "/nowhere.safetensors")),
    _run_directory("checkpoints that are all cut off", r"no checkpoint in .* can be read",
                   _checkpoints(lambda path: path.write_bytes(bytes(100))), "resume"),
    _run_directory("checkpoints with code in them: it is not run", r"no checkpoint in .* can be read",
                   _checkpoints(lambda path: torch.save(Code(str(path.parent / "EXECUTED")), path)), "resume"),
    _run_directory("checkpoints of something else", r"checkpoint",
                   _checkpoints(lambda path: torch.save({"a": 1}, path)), "resume"),
    Entry("Run directories", "another process at work there", r"process 4711 is at work in", _locked),
]  # fmt: skip


def _occupied(lab: Lab) -> list[str]:
    (lab.folder / "mine").mkdir()
    (lab.folder / "mine" / "thesis.txt").write_text("x")
    return lab.train(f"output={lab.folder / 'mine'}")


def _file(lab: Lab) -> Path:
    (lab.folder / "file").write_text("x")
    return lab.folder / "file"


def _full(lab: Lab, size: int) -> None:
    """No file may grow beyond `size` bytes while the entry runs, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    lab.held.callback(resource.setrlimit, resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))


def _full_train(lab: Lab) -> list[str]:
    arguments = lab.train()
    _full(lab, 10_000)
    return arguments


def _full_checkpoint(lab: Lab) -> list[str]:
    arguments = lab.train(f"pretrained={lab.other_base}")
    _full(lab, 100_000)
    return arguments


def _full_predict(lab: Lab) -> list[str]:
    arguments = lab.predict()
    _full(lab, 100)
    return arguments


def _broken_among(lab: Lab) -> list[str]:
    (lab.folder / "images").mkdir()
    (lab.folder / "images" / "b.nii.gz").write_text("x")
    return lab.predict(input=lab.folder / "images")


OUTPUTS = [
    Entry("Outputs", "train into a folder with other things in it", r"mine is not empty", _occupied),
    Entry("Outputs", "train into a file", r"cannot write|file", lambda lab: lab.train(f"output={_file(lab)}")),
    Entry("Outputs", "train below a file", r"cannot write", lambda lab: lab.train(f"outputs={_file(lab)}")),
    Entry("Outputs", "predict into a file", r"is a file: give a folder", lambda lab: lab.predict(output=_file(lab))),
    Entry("Outputs", "predict into the folder of the images", r"is the folder of the images",
          lambda lab: lab.predict(output=lab.cohort / IMAGE.rsplit("/", 1)[0])),
    Entry("Outputs", "train on a full disk", r"cannot write .*File too large", _full_train),
    Entry("Outputs", "a disk full at the checkpoint", r"cannot write .*last\.ckpt", _full_checkpoint),
    Entry("Outputs", "predict on a full disk", r"cannot write .*File too large", _full_predict),
    Entry("Inputs of predict", "no such image", r"does not exist", lambda lab: lab.predict(input="/nowhere.nii")),
    Entry("Inputs of predict", "a folder without images", r"holds no image: ",
          lambda lab: lab.predict(input=lab.folder)),
    Entry("Inputs of predict", "a picture", r"a\.png is none of the images that are read",
          lambda lab: lab.predict(input=_file(lab).rename(lab.folder / "a.png"))),
    Entry("Inputs of predict", "no image that can be read", r"b\.nii\.gz cannot be read.*1 of 1 image", _broken_among),
]  # fmt: skip

ENTRIES = [*ARGUMENTS, *DATA, *WEIGHTS, *MODELS, *RUNS, *OUTPUTS]
SHOWN = {  # entries on the page: the mistakes that are made most, and the attacks
    "`adapter.rnk=4`", "`adapter=lra`", "`adapter.rank=25`", "`pretrained=builtin`",
    "`split.scheme=shots split.shots=7`", "a file that has moved", "a link out of the root", "a patient on two sides",
    "a label with fractions", "image and label of different shape", "a pickle with code in it: it is not run",
    "of another architecture", "NaN", "for another base", "a config.yaml that names code", "train on a full disk",
    "a picture", "a .nii.gz cut off", "an affine with NaN", "a series of two volumes",
}  # fmt: skip
HEAD = f"""# Bad inputs and what is said of them

`tests/test_robustness.py` gives {len(ENTRIES) + len(VOLUMES)} bad inputs to the scripts. Each must end with exit code 1
and one clear line, without a traceback, without a file of before changed, and without a model or a label map written.
Image files are given to `predict` in one folder with a sound one, which is segmented all the same.
`tests/data/test_hostile.py` tries many more headers and bytes, drawn at random.

These are the ones that matter most. DIR stands for a folder, HASH for 64 hexadecimal digits; the page is written by
`python tests/robustness.py > docs/robustness.md`.
"""


def document() -> Iterator[str]:
    """The page as Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        lab, group = Lab(Path(folder).resolve()), ""
        yield HEAD
        for entry in (entry for entry in ENTRIES if entry.title in SHOWN):
            if entry.group != group:
                group = entry.group
                yield f"\n## {group}\n"
            yield f"- {entry.title}\n  ```\n  {lab.try_out(entry).replace(chr(10), chr(10) + '  ')}\n  ```"
        yield "\n## Image files\n"
        for volume in (volume for volume in VOLUMES if volume.title in SHOWN):
            yield f"- {volume.title}\n  ```\n  {lab.volumes[volume.name]}\n  ```"


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    sys.stdout.write("\n".join(document()) + "\n")
