"""Stacks: which rows they are made of, in which order, and that no row has two owners."""

from __future__ import annotations

import pytest
import torch

from tcurlora_seg.adapters.stacks import Slot, Stack, check_rank, refuse_overlap
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.stacking import stacked_weights, stacks_for


def test_slices_run_block_by_block_and_roles_as_written(tiny):
    stack = stacks_for(tiny, ["o", "q", "v"], [5, 2])[0]
    assert [(s.block, s.role) for s in stack.slots] == [
        (5, "o"), (5, "q"), (5, "v"), (2, "o"), (2, "q"), (2, "v"),
    ]  # fmt: skip
    assert (stack.blocks, stack.roles, stack.heads, len(stack)) == ((5, 2), ("o", "q", "v"), 2, 6)
    assert (stack.out_features, stack.in_features) == (24, 24)


@pytest.mark.parametrize(
    ("role", "parameter", "rows"),
    [
        ("q", "attn.qkv", slice(0, 24)),
        ("k", "attn.qkv", slice(24, 48)),
        ("v", "attn.qkv", slice(48, 72)),
        ("qkv", "attn.qkv", slice(0, 72)),
        ("o", "attn.out_proj", slice(None)),
        ("up", "mlp.linear1", slice(None)),
        ("down", "mlp.linear2", slice(None)),
    ],
)
def test_a_role_means_these_rows(role, parameter, rows, tiny):
    weights = stacked_weights(tiny, stacks_for(tiny, [role], [3])[0])
    expected = tiny.state_dict()[f"vit.blocks.3.{parameter}.weight"][rows]
    assert torch.equal(weights, expected[None])


def test_q_k_and_v_are_what_the_attention_computes_with(tiny):
    """Zero rows of role v silence the attention whatever q and k are, up to the bias behind it."""
    slot = stacks_for(tiny, ["v"], [0])[0].slots[0]
    attention = tiny.vit.blocks[0].attn
    with torch.no_grad():
        attention.qkv.weight[slot.first : slot.last] = 0
    tokens = torch.randn(1, 8, 24)
    assert torch.equal(attention(tokens), attention.out_proj.bias.expand(1, 8, 24))


@pytest.mark.parametrize(
    ("roles", "blocks", "words"),
    [
        (["q", "query"], None, "unknown role 'query': choose from q, k, v, qkv, o, up, down"),
        (["o", "down"], None, "different shapes (o 24 x 24, down 24 x 48)"),
        (["q"], [0, 12], "0 to 11"),
        (["q"], [-1], "0 to 11"),
        (["q"], [1, 1], "different blocks"),
        (["q"], [], "different blocks"),
        (["q"], 1, "blocks=1: name different blocks"),
        ([], None, "name at least one"),
    ],
)
def test_a_stack_that_cannot_be_is_refused(roles, blocks, words, tiny):
    with pytest.raises(UserError) as caught:
        stacks_for(tiny, roles, blocks)
    assert words in str(caught.value)


def test_an_unknown_network_has_no_stacks():
    with pytest.raises(UserError, match=r"Linear is no network that is known here: UNETR"):
        stacks_for(torch.nn.Linear(2, 2), ["q"])


def _stack(*slots: Slot) -> Stack:
    return Stack(slots, (0,), ("a",), 1, 4, 4)


def test_rows_that_only_touch_do_not_overlap():
    first, second = Slot(0, "q", "layer", 0, 4), Slot(0, "k", "layer", 4, 8)
    refuse_overlap({"one": _stack(first), "two": _stack(second)})
    refuse_overlap({"one": _stack(first), "two": _stack(Slot(0, "q", "other", 0, 4))})


@pytest.mark.parametrize("rows", [(0, 12), (3, 5), (0, 1), (7, 20)])
def test_a_shared_row_is_refused_whichever_stack_comes_first(rows):
    stacks = {"one": _stack(Slot(0, "q", "layer", 0, 8)), "two": _stack(Slot(0, "qkv", "layer", *rows))}
    for names in (["one", "two"], ["two", "one"]):
        with pytest.raises(UserError, match=r"both adapt rows of layer"):
            refuse_overlap({name: stacks[name] for name in names})


def test_a_role_named_twice_overlaps_itself(tiny):
    with pytest.raises(UserError, match="both adapt rows"):
        refuse_overlap({"twice": stacks_for(tiny, ["q", "q"])[0]})


@pytest.mark.parametrize(("rank", "fits"), [(-1, False), (0, False), (1, True), (4, True), (5, False)])
def test_a_rank_fits_from_one_to_the_smaller_side(rank, fits):
    if fits:
        check_rank(rank, (6, 4), ["up"])
    else:
        with pytest.raises(UserError, match=f"rank={rank} is not possible for the 6 x 4 weights of up: choose 1 to 4"):
            check_rank(rank, (6, 4), ["up"])
