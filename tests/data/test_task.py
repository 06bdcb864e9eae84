from __future__ import annotations

import numpy as np
import pytest

from tcurlora_seg.data.datasets.brats2021 import BraTS2021
from tcurlora_seg.data.datasets.eadc_adni import EADCADNI
from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.datasets.upenn_gbm import UPennGBM
from tcurlora_seg.data.task import Task

TASKS = [(cls, task) for cls in (EADCADNI, LPBA40, BraTS2021, UPennGBM) for task in cls.tasks.values()]


@pytest.mark.parametrize(("dataset", "task"), TASKS, ids=lambda x: getattr(x, "name", None))
def test_a_task_fits_its_data_set(dataset: type, task: Task) -> None:
    assert dataset.tasks[task.name] is task
    assert list(task.classes) == list(range(1, task.out_channels))
    merged = [value for values in task.classes.values() for value in values]
    assert len(merged) == len(set(merged)) and set(merged) <= dataset.known_labels - {0}
    assert {i for classes in task.structures.values() for i in classes} == set(task.classes)
    paired = [index for pair in task.mirror_pairs for index in pair]
    assert len(paired) == len(set(paired)) and set(paired) <= set(task.classes)


def test_raw_values_become_class_indices() -> None:
    raw = np.array([0, 21, 165, 166, 182], dtype=np.uint8)
    assert LPBA40.tasks["hippocampus"].class_indices(raw).tolist() == [0, 0, 1, 1, 0]
    assert LPBA40.tasks["hippocampus_lr"].class_indices(raw.astype(np.float32)).tolist() == [0, 0, 1, 2, 0]
    assert LPBA40.tasks["structures"].class_indices(raw).tolist() == [0, 1, 53, 54, 56]
    assert BraTS2021.tasks["subregions"].class_indices(np.array([0, 1, 2, 4])).tolist() == [0, 1, 2, 3]


def test_all_56_structures_have_a_name_and_a_side() -> None:
    task = LPBA40.tasks["structures"]
    assert len(task.structures) == 56 and len(task.mirror_pairs) == 27
    names = {index: name for name, (index,) in task.structures.items()}
    for left, right in task.mirror_pairs:
        assert names[left].replace("left_", "right_") == names[right] != names[left]


def test_nested_tumour_regions_are_unions() -> None:
    structures = BraTS2021.tasks["subregions"].structures
    assert set(structures["enhancing"]) < set(structures["tumor_core"]) < set(structures["whole_tumor"])


def test_values_below_0_are_background() -> None:
    assert LPBA40.tasks["hippocampus"].class_indices(np.array([-1, 166, 200])).tolist() == [0, 1, 0]
