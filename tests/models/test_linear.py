"""The adapted linear layer: rows, biases, several adapters."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tcurlora_seg import adapt, merge, merged
from tcurlora_seg.adapters.base import Adapter
from tcurlora_seg.models.linear import AdaptedLinear, Attached


class Scaled(Adapter):
    """Multiplies the rows by `factor` and moves the bias by `shift`; notes the outputs it was shown."""

    def __init__(self, factor: float = 0.0, shift: float | None = None) -> None:
        super().__init__()
        self.factor, self.shift = nn.Parameter(torch.tensor(factor)), shift
        self.seen: list[torch.Tensor] = []

    def delta(self, index, weight):
        return self.factor * (index + 1) * weight

    def bias_delta(self, index, bias):
        return None if self.shift is None else torch.full((2,), self.shift * (index + 1))

    def updates(self, indices, x, ys, weights):
        self.seen += list(ys)
        return super().updates(indices, x, ys, weights)


def layer(bias: bool = True) -> tuple[AdaptedLinear, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    plain = nn.Linear(5, 6, bias=bias)
    return AdaptedLinear(plain), plain, torch.randn(3, 4, 5)


def test_it_holds_the_very_parameters_of_the_layer_it_replaces():
    adapted, plain, x = layer()
    assert adapted.weight is plain.weight and adapted.bias is plain.bias
    assert list(adapted.state_dict()) == list(plain.state_dict()) and torch.equal(adapted(x), plain(x))
    assert adapted.training and not AdaptedLinear(plain.eval()).training


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "rows", [[(0, 2)], [(2, 4)], [(4, 6)], [(4, 6), (0, 2)], [(0, 2), (2, 4), (4, 6)], [(2, 4), (4, 6), (0, 2)]]
)
def test_each_slice_changes_its_own_rows_by_its_own_update(rows, bias):
    adapted, plain, x = layer(bias)
    adapter = Scaled(0.5, 0.25)
    adapted.attached.append(Attached(adapter, list(range(len(rows))), rows))
    expected = plain(x).detach().clone()
    for index, (first, last) in enumerate(rows):
        update = 0.5 * (index + 1) * F.linear(x, plain.weight[first:last]) + 0.25 * (index + 1)
        expected[..., first:last] += update.detach()
    assert torch.allclose(adapted(x), expected, atol=1e-6)
    weight, merged_bias = adapted.merged()
    assert torch.allclose(F.linear(x, weight, merged_bias), expected, atol=1e-6)
    assert (adapter.seen[0] - F.linear(x, plain.weight)[..., rows[0][0] : rows[0][1]]).abs().max() < 1e-6


def test_adapters_on_one_layer_all_see_the_frozen_output():
    adapted, plain, x = layer()
    first, second = Scaled(0.5), Scaled(3.0)
    adapted.attached += [Attached(first, [0], [(0, 2)]), Attached(second, [0], [(0, 2)])]
    total = adapted(x)
    assert torch.equal(first.seen[-1], second.seen[-1])
    expected = plain(x).detach().clone()
    expected[..., :2] += 3.5 * F.linear(x, plain.weight[:2]).detach()
    assert torch.allclose(total, expected, atol=1e-6)


class Double(Scaled):
    """Computes its updates in double precision."""

    def updates(self, indices, x, ys, weights):
        return [update.double() for update in super().updates(indices, x, ys, weights)]


def test_the_output_keeps_its_precision_whatever_an_update_has():
    adapted, _, x = layer()
    adapted.attached.append(Attached(Double(0.5), [0], [(2, 4)]))
    assert adapted(x).dtype == torch.float32


def test_switched_off_it_is_the_frozen_layer():
    adapted, plain, x = layer()
    adapted.attached.append(Attached(Scaled(0.5, 0.5), [0], [(0, 2)]))
    adapted.active = False
    assert torch.equal(adapted(x), plain(x))


def test_what_is_merged_already_is_not_added_again(tiny, image, stir):
    model = stir(adapt(tiny, "lora", rank=2), size=0.2)
    with merged(model):
        assert torch.equal(merge(model)(image), model(image))


def test_merging_in_half_precision_rounds_once():
    adapted, _, _ = layer()
    adapted.attached.append(Attached(Scaled(2**-10), [0], [(0, 2)]))
    adapted.to(torch.bfloat16)
    exact = adapted.weight[:2].float() * (1 + 2**-10)
    assert torch.equal(adapted.merged()[0][:2], exact.to(torch.bfloat16))
    assert torch.equal(adapted.merged()[0][2:], adapted.weight[2:])
