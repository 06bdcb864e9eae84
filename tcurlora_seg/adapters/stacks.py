"""Stack geometry: the rows of layers that form one third-order tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tcurlora_seg.errors import UserError


@dataclass(frozen=True)
class Slot:
    """Location of one slice of a stack: rows [first, last) of a layer's weight.

    Attributes:
        block: index of the transformer block.
        role: function of the rows in the block, for example `q`.
        linear: dotted path of the layer in the network; it may be a LayerNorm, whose rows are single numbers.
        first: first row.
        last: one past the last row.
    """

    block: int
    role: str
    linear: str
    first: int
    last: int


@dataclass(frozen=True)
class Stack:
    """The geometry of a frozen tensor (slices, out_features, in_features); it holds no weights.

    The order is block-major, slice = block position * number of roles + role position. It matters: the t-product is
    invariant under cyclic shifts of the slices, not under permutations.

    Attributes:
        slots: one per slice, in order.
        blocks: the block indices, as asked for.
        roles: the roles, as asked for.
        heads: attention heads of a block; the rows of q, k and v run head by head.
        out_features: rows of a slice.
        in_features: columns of a slice; 0 for the vectors of LayerNorms.
    """

    slots: tuple[Slot, ...]
    blocks: tuple[int, ...]
    roles: tuple[str, ...]
    heads: int
    out_features: int
    in_features: int

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of a slice."""
        return self.out_features, self.in_features


def check_rank(rank: int, shape: tuple[int, int], roles: Sequence[str]) -> None:
    """Check that the slices of a stack can have a rank.

    Args:
        rank: the rank.
        shape: (out, in) of the slices.
        roles: for the message.

    Raises:
        UserError: the rank is below 1 or above the smaller side of the slices.
    """
    if not 1 <= rank <= min(shape):
        raise UserError(
            f"rank={rank} is not possible for the {shape[0]} x {shape[1]} weights of {', '.join(roles)}: "
            f"choose 1 to {min(shape)}"
        )


def refuse_overlap(stacks: dict[str, Stack]) -> None:
    """Check that stacks, by name, share no rows: two adapters would change the same weight.

    Raises:
        UserError: a row belongs to two slots, for example of `qkv` and of `q`.
    """
    owners: dict[str, list[tuple[str, Slot]]] = {}
    for name, stack in stacks.items():
        for slot in stack.slots:
            for other, taken in owners.setdefault(slot.linear, []):
                if slot.first < taken.last and taken.first < slot.last:
                    raise UserError(
                        f"stack '{name}' (role {slot.role}) and stack '{other}' (role {taken.role}) both adapt rows "
                        f"of {slot.linear}: give every row to one stack"
                    )
            owners[slot.linear].append((name, slot))
