from __future__ import annotations

import numpy as np
import pytest

from tcurlora_seg.data.datasets.brats2021 import BraTS2021
from tcurlora_seg.data.datasets.eadc_adni import EADCADNI
from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.datasets.upenn_gbm import UPennGBM
from tcurlora_seg.data.task import IGNORED, Task, without_ignored
from tcurlora_seg.errors import UserError

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


def test_label_values_may_be_large() -> None:
    task = Task.of_classes("atlas", {"a": [312782546], "b": [70001, 3]})
    raw = np.array([0, 312782546, 70001, 3, 312782547], np.uint32)
    assert task.class_indices(raw).tolist() == [0, 1, 2, 2, 0]
    with pytest.raises(UserError, match=r"the label value 3000000000 is above 2,147,483,647; renumber the labels"):
        Task.of_classes("atlas", {"a": [3_000_000_000]})
    with pytest.raises(UserError, match=r"255 classes; at most 254"):
        Task.of_classes("many", {f"c{i}": [i] for i in range(1, 256)})


def test_ignored_voxels_have_an_index_of_their_own_that_no_score_counts() -> None:
    task = Task("t", {1: (1,)}, {"a": (1,)}, ignored=(4,))
    reference = task.class_indices(np.array([0, 1, 4, 4]))
    assert reference.tolist() == [0, 1, IGNORED, IGNORED]
    prediction, seen = without_ignored(np.array([1, 1, 1, 0], np.uint8), reference)
    assert prediction.tolist() == [1, 1, 0, 0] and seen.tolist() == [0, 1, 0, 0]


def test_a_structure_of_one_side_is_not_mirrored_and_it_is_said() -> None:
    task = Task.of_classes("t", {"left_atrium": [1]}, None)
    assert task.mirror_axes((0, 1, 2)) == (1, 2)
    assert task.describe_sides() == "not mirrored left-right, since left_atrium is of one side (dataset.mirror_pairs)"
    task = Task.of_classes("t", {"left_kidney": [1], "right_kidney": [2]}, None)
    assert task.mirror_pairs == ((1, 2),) and task.mirror_axes((0,)) == (0,)
    assert task.describe_sides() == "a mirror exchanges left_kidney and right_kidney"
    free = Task.of_classes("t", {"left_atrium": [1]}, [])
    assert free.mirror_axes((0,)) == (0,) and not free.describe_sides()


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
