"""predictions.csv: a row for every image that was segmented into a folder, whenever that was."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from tcurlora_seg.errors import UserError
from tcurlora_seg.files import write_text

FILE = "predictions.csv"
_FIRST, _LAST = ("image", "seconds", "voxel_mm", "orientation"), ("notes", "warnings")


class Records:
    """The rows of a folder's table by image; those of an earlier prediction stay until they are written again.

    Args:
        folder: of the label maps.

    Raises:
        UserError: a table there that is none of these.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._rows: dict[str, dict[str, str]] = {}
        if self._path.exists():
            try:
                rows = list(csv.DictReader(io.StringIO(self._path.read_text(encoding="utf-8"))))
                self._rows = {row["image"]: row for row in rows}
            except (OSError, ValueError, KeyError, csv.Error) as error:
                raise UserError(f"{self._path} cannot be read: move it away, or choose another output") from error

    def add(self, image: str, row: Mapping[str, object]) -> None:
        """Set an image's row and write the table."""
        self._rows[image] = {"image": image, **{key: str(value) for key, value in row.items()}}
        found = dict.fromkeys(key for other in self._rows.values() for key in other)
        columns = [*_FIRST, *(key for key in found if key not in (*_FIRST, *_LAST)), *_LAST]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows[name] for name in sorted(self._rows))
        write_text(self._path, text.getvalue())
