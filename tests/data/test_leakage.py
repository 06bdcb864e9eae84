from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.leakage import UNKNOWN, keep_apart, read_crosswalk
from tcurlora_seg.errors import UserError

PATIENTS = ("UPENN-GBM-00001", "UPENN-GBM-00007")
TABLE = pd.DataFrame(
    {
        "Data Collection (as on TCIA+additional)": ["UPENN-GBM", "UPENN-GBM", "UCSF-PDGM", "new-not-in-TCIA"],
        "Site No": [1, 1, 6, 21],
        "TCIA PatientID": [*PATIENTS, "UCSF-PDGM-0004", None],
        "BraTS2021 ID": ["BraTS2021_00005", "BraTS2021_01234", "BraTS2021_00000", "BraTS2021_00002"],
        "Segmentation (Task 1) Cohort": ["Training", "Validation", "Training", "Training"],
    }
)
TWINS = dict(zip(PATIENTS, TABLE["BraTS2021 ID"], strict=False))


@pytest.mark.parametrize("name", ["map.xlsx", "map.csv", "semicolons.csv", "bare.csv", "title.xlsx"])
def test_the_columns_are_found_by_their_values(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "map.xlsx":
        TABLE.to_excel(path, index=False)
    elif name == "title.xlsx":  # another sheet before it, two lines above the headings, ids of a scan
        scans = TABLE.assign(**{"TCIA PatientID": TABLE["TCIA PatientID"] + "_11"})
        with pd.ExcelWriter(path) as writer:
            pd.DataFrame({"read": ["me"]}).to_excel(writer, sheet_name="notes")
            scans.to_excel(writer, sheet_name="mapping", startrow=2)
    elif name == "bare.csv":
        TABLE.assign(**{"BraTS2021 ID": TABLE["BraTS2021 ID"].str[-5:]}).to_csv(path, index=False)
    else:
        TABLE.to_csv(path, index=False, sep=";" if "semi" in name else ",")
    assert read_crosswalk(path) == TWINS


def test_what_is_no_crosswalk_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.crosswalk=.*none.xlsx is not a file"):
        read_crosswalk(tmp_path / "none.xlsx")
    (tmp_path / "damaged.xlsx").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"damaged.xlsx cannot be read"):
        read_crosswalk(tmp_path / "damaged.xlsx")
    TABLE[["Site No", "BraTS2021 ID"]].to_csv(tmp_path / "half.csv", index=False)
    with pytest.raises(UserError, match=r"column of UPENN-GBM-00001 .*it begins with: Site No, BraTS2021 ID"):
        read_crosswalk(tmp_path / "half.csv")


@pytest.fixture
def cohort(lpba40: Callable[..., LPBA40], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LPBA40]:
    """A data set that shares the patients of its first two cases with BraTS2021."""
    monkeypatch.setattr(LPBA40, "shares_patients_with", "brats2021")
    TABLE.to_csv(tmp_path / "map.csv", index=False)

    def make(*, crosswalk: bool, simulated: bool = False) -> LPBA40:
        dataset = lpba40()
        manifest = dataset.manifest()
        twins = [replace(case, patient=patient) for case, patient in zip(manifest.cases, PATIENTS, strict=False)]
        cases = (*twins, *manifest.cases[2:])
        dataset._manifest = replace(manifest, cases=cases, simulated={} if simulated else None)
        dataset.crosswalk = str(tmp_path / "map.csv") if crosswalk else None
        return dataset

    return make


@pytest.mark.parametrize("origin", [{"brats2021"}, {"lpba40", "brats2021"}, {UNKNOWN}])
def test_what_the_base_has_seen_is_left_out_and_counted(cohort: Callable[..., LPBA40], origin: set[str]) -> None:
    dataset = cohort(crosswalk=True)
    reasons = keep_apart(dataset, origin)
    assert reasons["S02"] == "is BraTS2021_01234 of brats2021, which the base network was trained on"
    assert list(reasons) == ["S01", "S02"] and dataset.manifest().excluded == reasons
    split = dataset.split(scheme="shots", shots=2)
    assert not {"S01", "S02"} & {id for side in split.sides.values() for id in side}


def test_without_a_crosswalk_there_is_a_warning(
    cohort: Callable[..., LPBA40], caplog: pytest.LogCaptureFixture
) -> None:
    for origin, words in (("brats2021", "was trained on brats2021"), (UNKNOWN, "may have been trained on brats2021")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert keep_apart(cohort(crosswalk=False), {origin}) == {}
        assert words in caplog.text and "dataset.crosswalk=" in caplog.text


@pytest.mark.parametrize(
    ("name", "seen", "words"),
    [
        ("lpba40", "lpba40", "was trained on cases of lpba40, perhaps on those"),
        ("brats2021", "upenn_gbm", "was trained on upenn_gbm, which shares patients with brats2021"),
        ("brats2021", "decathlon/Task01_BrainTumour", "which shares patients with brats2021"),
        ("upenn_gbm", "decathlon/Task01_BrainTumour", "which shares patients with upenn_gbm"),
        ("decathlon/Task01_BrainTumour", "brats2021", "which shares patients with decathlon/Task01_BrainTumour"),
        ("decathlon/Task04_Hippocampus", "decathlon/Task04_Hippocampus", "was trained on cases of decathlon"),
        ("decathlon/Task04_Hippocampus", "decathlon/Task09_Spleen", None),
        ("decathlon/Task04_Hippocampus", "brats2021", None),
        ("brats2021", "lpba40", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("simulated", [False, True])
def test_a_base_that_may_have_seen_the_test_patients_is_named(
    lpba40: Callable[..., LPBA40], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str,
    seen: str, words: str | None, simulated: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(LPBA40, "cohort", name)
    dataset = lpba40()
    dataset._manifest = replace(dataset.manifest(), simulated={} if simulated else None)
    assert keep_apart(dataset, [seen, "eadc_adni"]) == {}
    if words is None or simulated:
        assert not caplog.text
    else:
        assert words in caplog.text and len(caplog.records) == 1


def test_a_base_that_has_seen_nothing_of_it_needs_no_warning(
    cohort: Callable[..., LPBA40], lpba40: Callable[..., LPBA40], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for dataset, origin in (
        (cohort(crosswalk=True), set()),
        (cohort(crosswalk=False), {"eadc_adni"}),
        (cohort(crosswalk=False, simulated=True), {"brats2021"}),
    ):
        before = dataset.manifest()
        assert keep_apart(dataset, origin) == {} and dataset.manifest() == before
    monkeypatch.undo()
    assert keep_apart(lpba40(), {"brats2021"}) == {}
    assert not caplog.text
