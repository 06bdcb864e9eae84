from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from heads import draw_head
from programs import run_script

from tcurlora_seg.data.grid import centred_affine
from tcurlora_seg.data.manifest import load_manifest
from tcurlora_seg.data.simulate import simulate
from tcurlora_seg.data.simulate.anatomies import head_of_map
from tcurlora_seg.data.simulate.head import real_head
from tcurlora_seg.data.split import draw_split
from tcurlora_seg.data.volume import read_volume
from tcurlora_seg.errors import UserError


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads of a plausible size."""
    folder = tmp_path_factory.mktemp("maps")
    for number, axis in enumerate((0, 1)):
        values = np.kron(draw_head(), np.ones((3, 3, 3), dtype=np.int16)).take(range(6 * axis, 144), axis=2)
        affine = centred_affine(values.shape, (1.0, 1.0, 1.0), "RAS")
        nib.save(nib.Nifti1Image(values, affine), folder / f"m{number}.nii")
    return folder


@pytest.fixture(scope="module")
def root(maps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    simulate("lpba40", root, subjects=4, spacing=4.0, anatomies=maps)
    return root


def test_a_head_of_a_map_lies_where_the_packaged_head_does_with_its_structures_and_intensities(maps: Path) -> None:
    head, model = head_of_map(maps / "m0.nii"), real_head()
    assert head.t1.shape == model.t1.shape and torch.equal(head.low, model.low)
    assert (head.centre - model.centre).abs().max() < 2
    left, right = (torch.nonzero(head.labels[0] == id)[:, 0].float().mean() for id in (165, 166))
    assert left < right  # RAS
    assert float(head.t1.median()) == 0 and 98 < float(head.t1[head.t1 > 90].median()) < 110  # white matter
    assert float(head.with_skull()[head.brain == 0].max()) > 0 and not head.t1[head.brain == 0].any()


def test_subjects_of_one_map_are_one_patient_and_never_on_two_sides(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = load_manifest(root / "manifest.json")
    assert [case.patient for case in manifest.cases] == ["m0", "m1", "m0", "m1"]
    split = draw_split(manifest, scheme="shots", shots=1)
    assert len(split.train) == len(split.test) == 2
    check = ("dataset=lpba40", f"dataset.root={root}", "workers=1")
    assert run_script("prepare_data", *check, monkeypatch=monkeypatch) == 0
    assert load_manifest(root / "manifest.json").cases == manifest.cases  # a check does not forget them


def test_subjects_differ_in_their_anatomy_and_are_pure_functions_of_map_and_number(
    root: Path, maps: Path, tmp_path: Path
) -> None:
    simulate("lpba40", tmp_path / "again", subjects=2, spacing=4.0, anatomies=maps)
    files = sorted((tmp_path / "again").rglob("*.img.gz"))
    assert len(files) == 4
    for file in files:
        assert file.read_bytes() == (root / file.relative_to(tmp_path / "again")).read_bytes()
    labels = [read_volume(path)[0] for path in sorted(root.rglob("*structure.label.hdr"))]
    assert all({165, 166} <= set(np.unique(label)) for label in labels)
    assert not any(np.array_equal(a, b) for i, a in enumerate(labels) for b in labels[:i])


def test_what_is_no_map_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "._m0.nii.gz").write_bytes(b"macOS")
    with pytest.raises(UserError, match=r"anatomies=.*: expected a folder of label maps"):
        simulate("lpba40", tmp_path / "cohort", subjects=1, anatomies=tmp_path)
    assert not (tmp_path / "cohort").exists()
    nib.save(nib.Nifti1Image((draw_head() > 500).astype(np.int16), np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(UserError, match=r"x\.nii has no hippocampi \(values 17 and 53\)"):
        head_of_map(tmp_path / "x.nii")
