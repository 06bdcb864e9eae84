"""Segmentation task: which raw label values make which class, and which structures are scored."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tcurlora_seg.data.sides import find_sides
from tcurlora_seg.errors import UserError

if TYPE_CHECKING:
    import numpy as np

IGNORED = 255
"""Class index of voxels that nobody has labelled: they count neither in a loss nor in a score."""
LARGEST_VALUE = 2**31 - 1
"""Label values up to this one can be written so that every reader of NIfTI knows them."""


@dataclass(frozen=True)
class Task:
    """A segmentation task on one data set's labels.

    Attributes:
        name: as in `dataset.task`.
        classes: class index (1, 2, ...; 0 is background) -> raw label values merged into it.
        structures: scored structure -> class indices whose union it is.
        mirror_pairs: classes that change places when left and right do.
        one_sided: names of structures of one side, which a mirror would teach wrongly.
        ignored: raw label values of voxels that nobody has labelled.

    Raises:
        UserError: no class, more of them than a byte holds, or a value that no label map can hold.
    """

    name: str
    classes: Mapping[int, tuple[int, ...]]
    structures: Mapping[str, tuple[int, ...]]
    mirror_pairs: tuple[tuple[int, int], ...] = field(default=())
    one_sided: tuple[str, ...] = ()
    ignored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.classes:
            raise UserError(f"{self.name}: there is no class but the background")
        if len(self.classes) >= IGNORED:
            raise UserError(f"{self.name}: {len(self.classes)} classes; at most {IGNORED - 1} can be told apart")
        largest = max((value for merged in self.classes.values() for value in merged), default=0)
        if largest > LARGEST_VALUE:
            raise UserError(f"{self.name}: the label value {largest} is above {LARGEST_VALUE:,}; renumber the labels")

    @property
    def out_channels(self) -> int:
        """Channels of the network's output: background and every class."""
        return 1 + len(self.classes)

    @classmethod
    def of_classes(
        cls,
        name: str,
        classes: Mapping[str, Sequence[int]],
        mirror_pairs: Sequence[Sequence[str]] | None = (),
        *,
        others: Collection[int] = (),
    ) -> Task:
        """A task whose classes have names and are each scored as they are.

        Args:
            name: of the task.
            classes: name -> raw label values merged into it, in the order of the class indices.
            mirror_pairs: names of classes that change places when left and right do; None finds them, see `find_sides`.
            others: raw label values that are in no class.
        """
        pairs, alone = find_sides(classes, others) if mirror_pairs is None else (mirror_pairs, [])
        index = {structure: i for i, structure in enumerate(classes, start=1)}
        return cls(
            name,
            {index[structure]: tuple(values) for structure, values in classes.items()},
            {structure: (i,) for structure, i in index.items()},
            tuple((index[left], index[right]) for left, right in pairs),
            tuple(alone),
        )

    def mirror_axes(self, axes: Sequence[int]) -> tuple[int, ...]:
        """Those of `axes` along which a mirror keeps the classes right: not left-right with a structure of one side."""
        return tuple(axis for axis in axes if axis != 0 or not self.one_sided)

    def describe_sides(self) -> str:
        """Effect of a mirror on the classes, in one line; nothing where it has none."""
        if self.one_sided:
            return f"not mirrored left-right, since {', '.join(self.one_sided)} is of one side (dataset.mirror_pairs)"
        if not self.mirror_pairs:
            return ""
        names = {index: name for name, own in self.structures.items() if len(own) == 1 for index in own}
        shown = [" and ".join(names.get(i, f"class {i}") for i in pair) for pair in self.mirror_pairs[:3]]
        more = f" and {len(self.mirror_pairs) - 3} more pairs" if len(self.mirror_pairs) > 3 else ""
        return f"a mirror exchanges {', '.join(shown)}{more}"

    def class_indices(self, raw: np.ndarray) -> np.ndarray:
        """Class index of every voxel, uint8, of whole-number labels as stored; background where no class has it."""
        import numpy as np

        table = {value: index for index, merged in self.classes.items() for value in merged}
        table |= dict.fromkeys(self.ignored, IGNORED)
        known = np.array(sorted(table))
        place = np.searchsorted(known, raw).clip(max=len(known) - 1)
        indices = np.array([table[value] for value in known.tolist()], dtype=np.uint8)
        return np.where(known[place] == raw, indices[place], np.uint8(0))


def given_classes(
    classes: Mapping[str, int | Sequence[int]], mirror_pairs: Sequence[Sequence[str]] | None
) -> dict[str, list[int]]:
    """The classes of a user's `dataset.classes`, checked: name -> raw label values.

    Args:
        classes: name -> one value, or those merged into it.
        mirror_pairs: the user's `dataset.mirror_pairs`.

    Raises:
        UserError: values that are not above 0 or belong to two classes; a pair that names anything else.
    """
    merged = {str(name): list(v) if isinstance(v, Sequence) else [v] for name, v in classes.items()}
    values = [value for listed in merged.values() for value in listed]
    positive = all(isinstance(value, int) and value > 0 for value in values)
    if not merged or not all(merged.values()) or len(values) != len(set(values)) or not positive:
        raise UserError(f"dataset.classes={merged}: expected {{name: [label values above 0, each once]}}")
    check_pairs(mirror_pairs, merged, "dataset.classes")
    return merged


def check_pairs(mirror_pairs: Sequence[Sequence[str]] | None, names: Collection[str], where: str) -> None:
    """Check a user's `dataset.mirror_pairs`.

    Args:
        mirror_pairs: pairs of names, or None.
        names: the names there are.
        where: what has them, for the message.

    Raises:
        UserError: a pair that names anything else.
    """
    for pair in mirror_pairs or ():
        if len(pair) != 2 or not set(pair) <= set(names):
            raise UserError(f"dataset.mirror_pairs: {pair} is not a pair of names of {where}: {', '.join(names)}")


def without_ignored(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both label maps with background where the reference is `IGNORED`, so that no score counts it.

    Args:
        prediction: class indices.
        reference: class indices of the same shape.
    """
    import numpy as np

    ignored = reference == IGNORED
    if not ignored.any():
        return prediction, reference
    return np.where(ignored, 0, prediction), np.where(ignored, 0, reference)
