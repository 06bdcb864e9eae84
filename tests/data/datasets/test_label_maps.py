from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from heads import draw_head
from nibabel.affines import voxel_sizes
from programs import TINY, run_script

from tcurlora_seg.data.augmentation import Augmentation
from tcurlora_seg.data.cache import TrainingVolumes
from tcurlora_seg.data.datamodule import SegmentationDataModule
from tcurlora_seg.data.datasets.label_maps import LabelMaps
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.spacing import training_spacing
from tcurlora_seg.data.synthesis import Synthesis
from tcurlora_seg.errors import UserError
from tcurlora_seg.randomness import generator

CLASSES = {"hippocampus": [17, 53], "cortex": [3, 42]}
SIDES = {"left": [17], "right": [53]}


@pytest.fixture
def maps(label_map_root: Path) -> Callable[..., LabelMaps]:
    def make(**changes: object) -> LabelMaps:
        arguments = {"root": str(label_map_root), "classes": CLASSES, "synthesis": Synthesis()}
        return LabelMaps(**{**arguments, "preparation": Preparation(), **changes})

    return make


def test_every_map_is_a_case_and_the_last_fifth_by_name_is_held_out(maps: Callable[..., LabelMaps]) -> None:
    split = maps().split(scheme="names")
    assert split.train == ("head0", "head1", "head2", "head3") and split.test == ("head4",) and not split.val


def test_thirteen_structures_are_segmented_unless_others_are_named(maps: Callable[..., LabelMaps]) -> None:
    data = maps(classes=None)
    assert data.task.out_channels == 14 and data.task.classes[10] == (17, 53)
    assert data.remembered["classes"]["hippocampus"] == [17, 53]  # a run's own configuration says which


def test_a_tree_of_freesurfer_subjects_is_read(maps: Callable[..., LabelMaps], tmp_path: Path) -> None:
    for subject in ("bert", "ernie"):
        (tmp_path / subject / "mri").mkdir(parents=True)
        nib.save(nib.MGHImage(draw_head().astype(np.int32), np.eye(4)), tmp_path / subject / "mri" / "aseg.mgz")
    found = maps(root=str(tmp_path), files="*/mri/aseg.mgz")
    assert [case.id for case in found.manifest().cases] == ["bert_mri_aseg", "ernie_mri_aseg"]
    item = found.prepare("bert_mri_aseg")
    assert torch.equal(item.native_label == 1, torch.from_numpy(np.isin(draw_head(), (17, 53))))


def test_a_prepared_case_is_one_image_of_its_map_whenever_it_is_asked_for(maps: Callable[..., LabelMaps]) -> None:
    first, again, other = (maps().prepare(id) for id in ("head0", "head0", "head1"))
    assert torch.equal(first.image, again.image) and not torch.equal(first.image, other.image)
    assert {1, 2} == set(torch.unique(first.label).tolist()) - {0}
    assert first.image.shape == first.label.shape


def test_coarse_windows_widen_the_voxel_sizes_that_a_network_was_trained_on(maps: Callable[..., LabelMaps]) -> None:
    sizes = maps().training_sizes(["head0"])
    assert training_spacing(sizes).smallest == (0.8,) * 3 and training_spacing(sizes).largest == (2.0,) * 3
    assert len(maps(synthesis=Synthesis(coarse=0)).training_sizes(["head0"])) == 1


def test_a_network_notes_the_volumes_in_whole_maps(maps: Callable[..., LabelMaps], tmp_path: Path) -> None:
    data = maps()
    counts = np.bincount(np.asarray(nib.load(data.root / "head0.nii.gz").dataobj).astype(int).ravel(), minlength=64)
    affine = nib.load(data.root / "head0.nii.gz").affine
    expected = counts[[17, 53]].sum() * np.prod(voxel_sizes(affine)) / 1000
    facts = data.facts(data.training_volume("head0"))
    assert facts["hippocampus/ml"] == pytest.approx(expected) and set(facts) == {"hippocampus/ml", "cortex/ml"}
    (low, high) = TrainingVolumes(data, ["head0", "head1"], "none", tmp_path).typical()["hippocampus/ml"]
    assert low <= expected <= high


def test_samples_do_not_depend_on_workers_or_on_where_the_maps_are_kept(
    maps: Callable[..., LabelMaps], tmp_path: Path
) -> None:
    def epoch(**changes: object) -> list[torch.Tensor]:
        data = maps()
        module = SegmentationDataModule(
            dataset=data, split=data.split(scheme="names"), crop=[32, 32, 32], batch_size=2, steps_per_epoch=4,
            cache_dir=str(tmp_path), augmentation=Augmentation(), **changes,
        )  # fmt: skip
        module.setup("fit")
        return [batch[key] for batch in module.train_dataloader() for key in ("image", "label")]

    alone = epoch()
    assert len(alone) == 8 and alone[0].shape == (2, 1, 32, 32, 32) and alone[1].dtype == torch.uint8
    for changes in ({"num_workers": 2}, {"cache": "disk", "num_workers": 1}, {"cache": "none"}):
        assert all(map(torch.equal, alone, epoch(**changes)))
    assert not torch.equal(alone[0], epoch(seed=1)[0])


def test_a_structure_of_one_side_alone_is_not_mirrored(maps: Callable[..., LabelMaps]) -> None:
    assert maps(classes={"hippocampus": 17}).task.one_sided == ("hippocampus",)  # the other one is in the images, too
    assert maps(classes=None).task.one_sided == () and maps(classes=SIDES).task.one_sided == ()


def test_left_stays_left_when_a_sample_is_mirrored(maps: Callable[..., LabelMaps]) -> None:
    still = Synthesis(rotation=0, scale=0, shear=0, bend_mm=0, coarse=0, near_focus=1, small_field=0)
    data = maps(classes=SIDES, mirror_pairs=[["left", "right"]], synthesis=still)
    volume, seen = data.training_volume("head0"), 0
    for k in range(24):
        _, label = data.sample(volume, crop=(48, 48, 48), augmentation=Augmentation(), g=generator("m", k))
        left, right = (torch.nonzero(label[0] == value)[:, 0].float() for value in (1, 2))
        if len(left) and len(right):
            assert left.mean() < right.mean()  # RAS: the first axis runs to the right
            seen += 1
    assert seen > 5


def test_values_that_are_no_labels_and_maps_without_a_class_are_one_line(
    maps: Callable[..., LabelMaps], tmp_path: Path
) -> None:
    nib.save(nib.Nifti1Image(draw_head() + np.float32(0.5), np.eye(4)), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image((draw_head() == 511).astype(np.int16), np.eye(4)), tmp_path / "b.nii.gz")
    nib.save(nib.Nifti1Image(draw_head().astype(np.int32) * 1000, np.eye(4)), tmp_path / "c.nii.gz")
    data = maps(root=str(tmp_path))
    with pytest.raises(UserError, match=r"a\.nii\.gz: label values .* are no whole numbers"):
        data.prepare("a")
    with pytest.raises(UserError, match=r"case b: b\.nii\.gz holds no value of dataset\.classes"):
        data.training_volume("b")
    with pytest.raises(UserError, match=r"c\.nii\.gz holds values outside 0 to 32767"):
        data.prepare("c")


def test_hidden_files_are_no_maps_and_links_out_of_the_root_need_leave(
    maps: Callable[..., LabelMaps], label_map_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "._fsaverage.nii.gz").write_bytes(b"macOS")
    (tmp_path / "fsaverage.nii.gz").symlink_to(label_map_root / "head0.nii.gz")
    with pytest.raises(UserError, match=r"dataset.outside_root=true follows them"):
        maps(root=str(tmp_path)).manifest()
    found = maps(root=str(tmp_path), outside_root=True)
    assert [case.id for case in found.manifest().cases] == ["fsaverage"]
    with pytest.raises(UserError, match=r"dataset.files=/maps/\*.nii: expected a pattern below dataset.root"):
        maps(files="/maps/*.nii").manifest()


@pytest.mark.parametrize("classes", [{"a": []}, {"a": [17], "b": [17, 53]}, {"a": [0]}, {"a": ["17"]}])
def test_classes_that_make_no_sense_are_refused(maps: Callable[..., LabelMaps], classes: dict[str, list[int]]) -> None:
    with pytest.raises(UserError, match=r"dataset\.classes="):
        maps(classes=classes)


def test_a_network_trained_on_maps_alone_segments_an_image_that_was_never_synthesised(
    label_map_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, image = tmp_path / "run", tmp_path / "scan.nii.gz"
    data = ("dataset=label_maps", f"dataset.root={label_map_root}", "dataset.classes={hippocampus: [17, 53]}")
    options = ("adapter=full", "split.scheme=names", "training.class_weights=[0.5,2]", f"outputs={tmp_path}")
    assert run_script("train", *TINY, *data, *options, f"output={run}", monkeypatch=monkeypatch) == 0
    assert (run / "evaluation/test/cases.csv").read_text().splitlines()[1].startswith("head4,")
    scan = np.random.default_rng(0).uniform(1, 99, (40, 36, 44)).astype(np.float32)
    nib.save(nib.Nifti1Image(scan, np.diag([-1.0, 1.0, 1.0, 1.0])), image)
    arguments = (f"checkpoint={run}", f"input={image}", f"output={tmp_path / 'labels'}")
    assert run_script("predict", *arguments, monkeypatch=monkeypatch) == 0
    found = nib.load(tmp_path / "labels/scan.nii.gz")
    assert found.shape == scan.shape and set(np.unique(found.dataobj)) <= {0, 1}


def test_class_weights_of_another_number_are_one_line(
    label_map_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("dataset=label_maps", f"dataset.root={label_map_root}", "dataset.classes={hippocampus: [17, 53]}")
    options = ("adapter=full", "split.scheme=names", "training.class_weights=[1,2,3]", f"outputs={tmp_path}")
    assert run_script("train", *TINY, *data, *options, monkeypatch=monkeypatch) == 1
    error = capsys.readouterr().err
    assert "training.class_weights=[1, 2, 3]: expected 2 numbers above 0" in error and "Traceback" not in error
