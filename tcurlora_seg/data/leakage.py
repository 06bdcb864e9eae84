"""Leakage: patients that a pre-trained network has seen under another name are no test of it.

447 scans of UPENN-GBM are also in BraTS2021. The Cancer Imaging Archive (10.7937/jc8x-9874) has the crosswalk between
the two, BraTS2021_MappingToTCIA.xlsx. The Decathlon's brain tumours are those of BraTS 2016 and 2017, which have
patients in common with both; nothing says which.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tcurlora_seg.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from tcurlora_seg.data.datasets.base import SegmentationDataset

log = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""Stands among the data sets that a network was trained on for whatever a file of weights does not tell."""
_TUMOURS = frozenset({"brats2021", "upenn_gbm", "decathlon/Task01_BrainTumour"})
_PATIENT = re.compile(r"UPENN-GBM-\d{5}")
_BRATS = (re.compile(r"BraTS2021_(\d{5})"), re.compile(r"(\d{5})"))  # the second only where the first is nowhere


def keep_apart(dataset: SegmentationDataset, trained_on: Collection[str]) -> dict[str, str]:
    """Leave the cases that a base network was trained on out of a data set's cohort.

    Nothing can leak into a simulated cohort, but a crosswalk that is given is obeyed.

    Args:
        dataset: its manifest loses the cases.
        trained_on: `SegmentationDataset.cohort` of the real images that the base has seen, perhaps with `UNKNOWN`.

    Returns:
        Case id -> why, for those that were left out; empty with a warning where there may be some but nobody can tell.

    Raises:
        UserError: a crosswalk that cannot be read, or no case remains.
    """
    told_apart = {dataset.shares_patients_with, UNKNOWN} if dataset.shares_patients_with else set()
    _warn(dataset, set(trained_on) - told_apart)
    if not told_apart & set(trained_on):
        return {}
    manifest, other = dataset.manifest(), dataset.shares_patients_with
    if dataset.crosswalk is None:
        if manifest.simulated is None:
            seen = f"was trained on {other}" if other in trained_on else f"may have been trained on {other}"
            log.warning(
                "warning: the base network %s, which has many patients of %s: scores on those mean little. Give "
                "dataset.crosswalk=BraTS2021_MappingToTCIA.xlsx (TCIA 10.7937/jc8x-9874) to leave them out",
                seen, dataset.name,
            )  # fmt: skip
        return {}
    twins = read_crosswalk(dataset.crosswalk)
    reasons = {
        case.id: f"is {twins[case.patient]} of {other}, which the base network was trained on"
        for case in manifest.cases
        if case.patient in twins
    }
    dataset.adopt(manifest.without(reasons))
    return reasons


def _warn(dataset: SegmentationDataset, seen: Collection[str]) -> None:
    """Say which real images the base has seen that may show patients of this cohort, where no crosswalk can tell."""
    cohort = dataset.cohort
    related = _TUMOURS if cohort in _TUMOURS else {cohort}
    for name in sorted(related & set(seen)):
        if dataset.manifest().simulated is not None:
            return
        if name == cohort:
            log.warning(
                "warning: the base network was trained on cases of %s, perhaps on those that are tested here: scores "
                "on them mean little", cohort,
            )  # fmt: skip
        else:
            log.warning(
                "warning: the base network was trained on %s, which shares patients with %s, and no list says which: "
                "scores on those mean little", name, cohort,
            )  # fmt: skip


def read_crosswalk(path: str | Path) -> dict[str, str]:
    """UPENN-GBM patient -> BraTS2021 id, from TCIA's Excel file or a CSV file with the two among its columns.

    The columns are found by what their values look like, whatever their headings and wherever the table begins. Every
    listed patient counts, also those of the challenge's validation part.

    Raises:
        UserError: no such file, unreadable, or without two such columns.
    """
    tables = list(_tables(Path(path).expanduser()))
    for table in tables:
        patients = _column(table, _PATIENT)
        for form in _BRATS:
            ids = _column(table, form)
            if patients is not None and ids is not None:
                both = (patients.notna() & ids.notna()).to_numpy()
                return dict(zip(patients[both], "BraTS2021_" + ids[both], strict=True))
    begins = "; ".join(", ".join(map(str, table.iloc[0].dropna())) for table in tables if len(table))
    raise UserError(
        f"dataset.crosswalk={path}: expected a column of UPENN-GBM-00001 and one of BraTS2021_00001; "
        f"it begins with: {begins[:200] or 'nothing'}"
    )


def _column(table: pd.DataFrame, form: re.Pattern[str]) -> pd.Series | None:
    """What matches in the column where most values do; None where none does."""
    pattern = form.pattern if form.groups else f"({form.pattern})"
    found = [table[column].str.extract(f"^{pattern}", expand=False) for column in table]
    best = max(found, key=lambda values: values.notna().sum(), default=None)
    return best if best is not None and best.notna().any() else None


def _tables(path: Path) -> Iterable[pd.DataFrame]:
    """The sheets of an Excel file, or a CSV file, as text without a header."""
    import pandas as pd

    if not path.is_file():
        raise UserError(f"dataset.crosswalk={path} is not a file: give BraTS2021_MappingToTCIA.xlsx or a CSV file")
    try:
        if path.suffix in (".xlsx", ".xls"):
            return pd.read_excel(path, sheet_name=None, header=None, dtype=str).values()
        return [pd.read_csv(path, header=None, dtype=str, sep=None, engine="python")]
    except ImportError as error:
        raise UserError(f"reading {path} needs openpyxl: pip install 'tcurlora-seg[data]'") from error
    except Exception as error:  # a damaged file raises what zip, XML and CSV may raise
        raise UserError(f"dataset.crosswalk={path} cannot be read: {str(error).splitlines()[0]}") from error
