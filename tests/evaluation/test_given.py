"""Label maps of another program are measured as a run's own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from programs import run_script

from tcurlora_seg.config.stored import load_config
from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation.given import score_folder
from tcurlora_seg.evaluation.overlay import Slices
from tcurlora_seg.inference.stored import stored_dataset

RECIPE = Path(__file__).parents[2] / "docs" / "nnunet.md"


@pytest.fixture
def references(run: Path, tmp_path: Path) -> Path:
    """The references of the test cases, as another program might write them: along other axes."""
    dataset = stored_dataset(load_config(run / "config.yaml"), "config.yaml")
    for id in json.loads((run / "split.json").read_text())["test"]:
        raw, affine = dataset.read_label(dataset.manifest().case(id))
        turned = nib.Nifti1Image(raw.astype(np.int16), affine).as_reoriented(np.array([[0, -1], [2, 1], [1, 1]]))
        (tmp_path / "maps").mkdir(exist_ok=True)
        nib.save(turned, tmp_path / "maps" / f"{id}.nii.gz")
    return tmp_path / "maps"


def test_a_copy_of_the_references_scores_one_whatever_its_orientation(
    run: Path, references: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (f"checkpoint={run}", f"predictions={references}", f"output={tmp_path / 'scores'}")
    assert run_script("evaluate", *arguments, monkeypatch=monkeypatch) == 0
    folder = tmp_path / "scores" / "evaluation" / "test"
    assert len(list((folder / "overlays").glob("*.png"))) == 2
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["mean_dice"] == 1.0 and summary["cases"] == 2 and summary["adapter"] == "maps"
    assert {s["hd95_mm"]["mean"] for s in summary["structures"].values()} == {0.0}


def test_the_pictures_lay_image_reference_and_prediction_over_each_other(
    run: Path, references: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label maps of these run along other axes than the references."""
    drawn: dict[str, Slices] = {}
    monkeypatch.setattr("tcurlora_seg.evaluation.given.draw", lambda rows, kept, *_: drawn.update(kept))
    score_folder(checkpoint=str(run), predictions=str(references), output=str(tmp_path / "scores"))
    assert len(drawn) == 2
    dataset = stored_dataset(load_config(run / "config.yaml"), "config.yaml")
    for id, slices in drawn.items():
        _, voxels, affine = next(dataset.read_images(dataset.manifest().case(id)))
        head = nib.as_closest_canonical(nib.Nifti1Image(voxels.astype(np.float32), affine)).get_fdata()
        for _, axis, index, _, (image, reference, prediction) in slices.planes:
            np.testing.assert_array_equal(reference, prediction)
            expected = np.take(head, index, axis).T
            np.testing.assert_allclose(image[expected != 0], expected[expected != 0])


def test_another_program_is_one_more_row_of_a_comparison(
    run: Path, references: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_folder(checkpoint=str(run), predictions=str(references), output=str(tmp_path / "nnunet"))
    arguments = (f"runs=[{run},{tmp_path / 'nnunet'}]", f"output={tmp_path / 'compared'}")
    assert run_script("compare", *arguments, monkeypatch=monkeypatch) == 0
    table = pd.read_csv(tmp_path / "compared" / "comparison.csv").set_index(["method", "structure"])
    whole = table.loc["maps"]["dice_mean"]
    assert (whole == 1.0).all() and table.loc["maps"]["trainable_parameters"].isna().all()
    assert list(table.index.unique("method"))[-1] == "maps" and len(table.index.unique("method")) == 2
    planned = json.loads((run / "plan.json").read_text())
    assert {"window", "training.class_weights"} <= set(planned) and "trainer.max_steps" not in planned
    assert "maps" in (tmp_path / "compared" / "comparison.html").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="is a run of its own"):
        score_folder(checkpoint=str(run), predictions=str(references), output=str(run))


def test_scores_of_a_part_of_the_cases_say_so(run: Path, references: Path, tmp_path: Path) -> None:
    part = Path(shutil.copytree(run, tmp_path / "part"))
    text = (part / "config.yaml").read_text()
    assert "  test: null\n" in text
    (part / "config.yaml").write_text(text.replace("  test: null\n", "  test: 2\n"))
    summary = score_folder(checkpoint=str(part), predictions=str(references), output=str(tmp_path / "scores"))
    assert summary["limited"] == "the first 2 test cases by hash (split.test)"


def test_label_maps_of_predict_are_read_by_the_list_beside_them(run: Path, references: Path, tmp_path: Path) -> None:
    task = stored_dataset(load_config(run / "config.yaml"), "config.yaml").task
    values = {index: 100 - index for index in task.classes}  # as if the classes were merged ones
    for path in references.glob("*.nii.gz"):
        image = nib.load(path)
        found = task.class_indices(np.asarray(image.dataobj))
        turned = np.vectorize({0: 0, **values}.get)(found)
        nib.save(nib.Nifti1Image(turned.astype(np.uint8), image.affine), path)
    meaning = {str(values[i]): {"class": i, "labels_of_the_data_set": list(raw)} for i, raw in task.classes.items()}
    (references / "labels.json").write_text(json.dumps({"task": task.name, "values": meaning}))
    options = {"checkpoint": str(run), "predictions": str(references), "output": str(tmp_path / "scores")}
    assert score_folder(**options)["mean_dice"] == 1.0
    meaning.popitem()
    (references / "labels.json").write_text(json.dumps({"values": meaning or {"1": {"labels_of_the_data_set": [5]}}}))
    with pytest.raises(UserError, match=r"labels.json describes other classes"):
        score_folder(**options)
    (references / "labels.json").write_text("[]")
    with pytest.raises(UserError, match=r"labels.json is not what predict.py and evaluate.py write"):
        score_folder(**options)


def test_label_maps_of_an_evaluation_are_read_by_the_list_beside_them(run: Path, tmp_path: Path) -> None:
    own = run / "evaluation" / "test" / "predictions"
    again = score_folder(checkpoint=str(run), predictions=str(own), output=str(tmp_path / "scores"))
    assert again["mean_dice"] == pytest.approx(json.loads((own.parent / "summary.json").read_text())["mean_dice"])


def test_what_cannot_be_scored_is_named(run: Path, references: Path, tmp_path: Path) -> None:
    def score(split: str = "test") -> None:
        score_folder(checkpoint=str(run), predictions=str(references), output=str(tmp_path / "scores"), split=split)

    first, second = sorted(references.iterdir())
    image = nib.load(second)
    values, moved = np.asarray(image.dataobj).copy(), image.affine.copy()
    moved[0, 3] += 0.5
    nib.save(nib.Nifti1Image(values, moved), second)
    with pytest.raises(UserError, match=rf"{second.name} .*it lies elsewhere by its header"):
        score()
    nib.save(nib.Nifti1Image(values[:-1], image.affine), second)
    with pytest.raises(UserError, match=rf"{second.name} is not on the grid of its reference"):
        score()
    nib.save(nib.Nifti1Image(np.asarray(nib.load(first).dataobj) // 100, nib.load(first).affine), first)
    with pytest.raises(UserError, match=rf"{first.name} holds 1, which is no label value of lpba40"):
        score()
    first.unlink()
    with pytest.raises(UserError, match=first.name):
        score()
    for split, words in {"val": "drew no such cases", "dev": "choose train, val or test"}.items():
        with pytest.raises(UserError, match=rf"split={split}: .*{words}"):
            score(split)
    assert not list((tmp_path / "scores").rglob("*.csv")) and not (tmp_path / "scores" / "config.yaml").exists()


def test_scores_of_other_label_maps_do_not_take_the_place_of_the_runs_own(
    run: Path, references: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistakes = {"needs output=": [f"predictions={references}"], "not a folder": ["predictions=no", "output=x"]}
    for words, arguments in mistakes.items():
        assert run_script("evaluate", f"checkpoint={run}", *arguments, monkeypatch=monkeypatch) == 1
        assert words in capsys.readouterr().err


def test_the_code_of_the_recipe_for_nnunet_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPE.read_text(encoding="utf-8").replace("RUN", str(run))
    write, read_back = re.findall(r"```python\n(.*?)```", recipe, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(write, {})
    raw = tmp_path / "nnUNet_raw" / "Dataset501_mine"
    split = json.loads((run / "split.json").read_text())
    for folder, ids in (("imagesTr", split["train"]), ("imagesTs", split["test"])):
        assert sorted(p.name for p in (raw / folder).iterdir()) == sorted(f"{id}_0000.nii.gz" for id in ids)
    labels = [np.asanyarray(nib.load(path).dataobj) for path in (raw / "labelsTr").iterdir()]
    assert len(labels) == len(split["train"]) and {int(v) for x in labels for v in np.unique(x)} == {0, 1, 2}
    (raw / "labelsTr").rename("nnunet_maps")
    exec(read_back, {})
    assert {int(v) for p in Path("nnunet").iterdir() for v in np.unique(np.asarray(nib.load(p).dataobj))} == {
        0,
        165,
        166,
    }


def test_another_program_is_one_method_whatever_the_runs_were_trained_with_whose_cases_it_had(
    run: Path, references: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        donor = Path(shutil.copytree(run, tmp_path / f"donor{number}"))
        config = load_config(donor / "config.yaml")
        config.training.probe, config.seed = number, number
        OmegaConf.save(config, donor / "config.yaml")
        score_folder(checkpoint=str(donor), predictions=str(references), output=str(tmp_path / f"maps{number}"))
    capsys.readouterr()
    runs = ",".join(str(path) for path in (run, tmp_path / "maps0", tmp_path / "maps1"))
    assert run_script("compare", f"runs=[{runs}]", f"output={tmp_path / 'both'}", monkeypatch=monkeypatch) == 0
    table = pd.read_csv(tmp_path / "both" / "comparison.csv").set_index("method")
    assert len(table.index.unique()) == 2 and set(table.loc["maps"]["seeds"]) == {2}
    assert "differ in training.probe" not in capsys.readouterr().out
