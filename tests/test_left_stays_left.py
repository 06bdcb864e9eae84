"""A voxel of the left hippocampus is one from the file that it was read from to the file that it is written to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tcurlora_seg.data.augmentation import Augmentation
from tcurlora_seg.data.augmentation.crop import foreground_spots
from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.grid import centred_affine
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.simulate import folder
from tcurlora_seg.evaluation.evaluate import evaluate
from tcurlora_seg.inference.windows import Predictor

SIZE, VOXEL = (28, 34, 26), 2.0
LEFT, RIGHT = 1, 2


def head(axes: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, label and affine: a brain of even grey, in it a large left and a small right hippocampus, both bright."""
    affine = centred_affine(SIZE, (VOXEL,) * 3, axes)
    x, y, z = np.tensordot(affine[:3, :3], np.indices(SIZE), 1) + affine[:3, 3][:, None, None, None]
    label = np.zeros(SIZE, np.uint8)
    label[(x > -18) & (x < -8) & (abs(y) < 10) & (abs(z) < 6)] = 165
    label[(x > 10) & (x < 16) & (abs(y) < 8) & (abs(z) < 5)] = 166
    image = np.where((abs(x) < 24) & (abs(y) < 30) & (abs(z) < 22), 100, 0)
    return np.where(label > 0, 400, image).astype(np.int16), label, affine


def write_nifti(root: Path) -> str:
    image, label, affine = head("LPS")
    (root / "label").mkdir()
    nib.save(nib.Nifti1Image(image, affine), root / "S01.delineation.skullstripped.nii.gz")
    nib.save(nib.Nifti1Image(label, affine), root / "label" / "S01.delineation.structure.label.nii.gz")
    return "LPS"


def write_analyze(root: Path) -> str:
    image, label, _ = head("LAS")
    for what, volume in (("skullstripped", image), ("structure.label", label)):
        folder.write_analyze(root / "LPBA40/delineation_space/S01" / f"S01.delineation.{what}.hdr", volume, VOXEL)
    return "LAS"


class Anatomist(nn.Module):
    """Calls what is bright in the left half of its window left, as a network does that was trained with mirrors."""

    def __init__(self) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        bright = image[:, 0] > 2
        right_half = torch.arange(image.shape[2])[:, None, None] >= image.shape[2] / 2
        classes = torch.where(bright, torch.where(right_half, RIGHT, LEFT), 0)
        return 20.0 * nn.functional.one_hot(classes, 3).movedim(-1, 1).float()


@pytest.mark.parametrize("spacing", [None, [1.5, 2.5, 2.0]])
@pytest.mark.parametrize("write", [write_nifti, write_analyze])
def test_left_stays_left_from_file_to_file(
    tmp_path: Path, write: Callable[[Path], str], spacing: list[float] | None
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    _, stored, affine = head(write(root))
    dataset = LPBA40(root=str(root), task="hippocampus_lr", preparation=Preparation(spacing=spacing))
    pairs = dataset.task.mirror_pairs

    item = dataset.prepare("S01")  # load, turn, crop to the brain, resample
    label = item.label.as_tensor()
    if spacing is None:
        assert all(n < whole for n, whole in zip(label.shape[1:], SIZE, strict=True))  # cropped to the brain
    world = item.label.affine.numpy()
    for side, sign in ((LEFT, -1), (RIGHT, 1)):
        where = np.argwhere(label[0].numpy() == side) @ world[:3, :3].T + world[:3, 3]
        assert len(where) > 20 and (sign * where[:, 0] > 7).all()

    mirrored = 0
    mirror = Augmentation(foreground=None, mirror_axes=(0,))
    for seed in range(8):  # a mirrored sample has the small side on the left, and calls it left
        size = [n + 3 for n in label.shape[1:]]
        g = torch.Generator().manual_seed(seed)
        image = item.image.as_tensor()
        image, sample = mirror(image, label, foreground_spots(label), crop=size, mirror_pairs=pairs, g=g)
        left, right = (torch.nonzero(sample[0] == side)[:, 0] for side in (LEFT, RIGHT))
        assert left.max() < right.min()
        mirrored += len(left) < len(right)
        assert bool((image[0][sample[0] > 0] > 1).float().mean() > 0.9)  # image and label were mirrored together
    assert 0 < mirrored < 8

    window = [8 * -(-n // 8) for n in label.shape[1:]]  # one window, so that its halves are those of the brain
    predictor = Predictor(Anatomist(), window=window, mirror_axes=(0, 1, 2), mirror_pairs=pairs)
    evaluate([predictor], dataset, ["S01"], tmp_path / "out", spacing=None, adapter="none", trainable_parameters=0)
    written = nib.load(tmp_path / "out" / "predictions" / "S01.nii.gz")
    prediction = np.asarray(written.dataobj)
    np.testing.assert_allclose(written.affine, affine)
    for side, raw in ((LEFT, 165), (RIGHT, 166)):
        found, truth = prediction == side, stored == raw
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > (0.999 if spacing is None else 0.8)
        where = np.argwhere(found) @ written.affine[:3, :3].T + written.affine[:3, 3]
        assert ((where[:, 0] < 0) == (side == LEFT)).all()
