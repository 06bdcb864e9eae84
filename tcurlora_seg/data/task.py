"""What is to be segmented: which raw label values make which class, and which structures are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Task:
    """A segmentation task on one data set's labels.

    Attributes:
        name: as in `dataset.task`.
        classes: class index (1, 2, ...; 0 is background) -> raw label values merged into it.
        structures: scored structure -> class indices whose union it is.
        mirror_pairs: classes that change places when left and right do.
    """

    name: str
    classes: Mapping[int, tuple[int, ...]]
    structures: Mapping[str, tuple[int, ...]]
    mirror_pairs: tuple[tuple[int, int], ...] = field(default=())

    @property
    def out_channels(self) -> int:
        """Channels of the network's output: background and every class."""
        return 1 + len(self.classes)

    @classmethod
    def of_classes(
        cls, name: str, classes: Mapping[str, Sequence[int]], mirror_pairs: Sequence[Sequence[str]] = ()
    ) -> Task:
        """A task whose classes have names and are each scored as they are.

        Args:
            name: of the task.
            classes: name -> raw label values merged into it, in the order of the class indices.
            mirror_pairs: names of classes that change places when left and right do.
        """
        index = {structure: i for i, structure in enumerate(classes, start=1)}
        return cls(
            name,
            {index[structure]: tuple(values) for structure, values in classes.items()},
            {structure: (i,) for structure, i in index.items()},
            tuple((index[left], index[right]) for left, right in mirror_pairs),
        )

    def class_indices(self, raw: np.ndarray) -> np.ndarray:
        """Class index of every voxel, uint8, of whole-number labels as stored; background where no class has it."""
        import numpy as np

        values = np.maximum(raw.astype(np.int64), 0)  # some mark voxels to be ignored by -1
        table = np.zeros(int(values.max()) + 1, dtype=np.uint8)
        for index, merged in self.classes.items():
            table[[value for value in merged if value < len(table)]] = index
        return table[values]
