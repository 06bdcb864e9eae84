from __future__ import annotations

import copy

import pytest
import torch
from monai.losses import DiceCELoss
from monai.networks.blocks.selfattention import SABlock

from tcurlora_seg.memory import peak_of_tensors
from tcurlora_seg.models.injection import adapt, merge
from tcurlora_seg.models.speed import SplitUp, speed_up
from tcurlora_seg.models.unetr import build_unetr

OPTIONS = ("channels_last", "checkpointing")
CHOICES = [{}, *({o: o == chosen for o in OPTIONS} for chosen in OPTIONS), dict.fromkeys(OPTIONS, True)]
NAMES = ["none", *OPTIONS, "all"]


def _gradients(model, image):
    label = (image > 1).to(torch.uint8)
    model.zero_grad()
    logits = model(image)
    DiceCELoss(softmax=True, to_onehot_y=True)(logits, label).backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def saved_at_full_resolution(model, image):
    """What the forward pass keeps for the backward pass."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model(image)
    return [t for t in kept if t.shape[2:] == (32, 32, 32)]


@pytest.mark.parametrize("options", CHOICES, ids=NAMES)
@pytest.mark.parametrize("method", ["tcurlora", "full"])
def test_every_option_leaves_outputs_and_gradients_as_they_are(tiny, stir, image, distance, options, method):
    model = adapt(tiny.double(), method, **({"rank": 3} if method == "tcurlora" else {}))
    if method == "tcurlora":
        stir(model)
    batch = torch.cat([image, image.flip(2)]).double()
    expected, gradients = _gradients(model.train(), batch)
    logits, others = _gradients(speed_up(model, **options), batch)
    assert distance(logits, expected) < 1e-10
    assert others.keys() == gradients.keys()
    whole = [torch.cat([g[name].flatten() for name in gradients]) for g in (others, gradients)]
    assert distance(*whole) < 1e-10


@pytest.mark.parametrize("half", [False, True])
def test_volumes_are_channels_last_in_sixteen_bits_alone_where_nobody_says_otherwise(tiny, half):
    model = speed_up(tiny, half=half)
    laid = [p.is_contiguous(memory_format=torch.channels_last_3d) for p in model.parameters() if p.ndim == 5]
    assert all(laid) == half


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_backward_pass_copies_no_volume_for_what_was_done_in_place(tiny, image, channels_last):
    def copies(model):
        seen, left = set(), [model(torch.cat([image, image])).grad_fn]
        while left:
            node = left.pop()
            if node is not None and node not in seen:
                seen.add(node)
                left += [following for following, _ in node.next_functions]
        return sum("CopySlices" in node.name() for node in seen)

    model = adapt(tiny, "full").train()
    assert copies(model) > 10
    assert copies(speed_up(model, channels_last=channels_last)) == 0


def test_the_state_dict_keeps_its_keys_and_a_copy_is_independent(tiny, image):
    keys = list(tiny.state_dict())
    fast = copy.deepcopy(speed_up(tiny, checkpointing=True))
    assert list(fast.state_dict()) == keys
    expected = tiny(image)
    with torch.no_grad():
        fast.out.conv.conv.bias += 1
    assert torch.equal(tiny(image), expected) and not torch.equal(fast(image), expected)


def test_merging_gives_back_the_plain_computation(tiny, stir, image, distance):
    model = speed_up(stir(adapt(tiny, "tcurlora", rank=3)))
    assert distance(merge(model)(image), model(image)) < 1e-5


def test_attention_drops_out_only_while_training(build, image):
    plain = build(dropout_rate=0.5)
    fast = speed_up(copy.deepcopy(plain))
    assert torch.allclose(fast.eval()(image), plain.eval()(image), atol=1e-5)
    block = fast.vit.blocks[0].attn.train()
    block.drop_output.p = 0.0
    tokens = torch.randn(1, 8, 24)
    torch.manual_seed(0)
    first = block(tokens)
    assert not torch.equal(first, block(tokens))


def test_a_frozen_skip_is_never_copied_beside_what_it_is_joined_with(tiny, image):
    model = speed_up(adapt(tiny, "decoder_only"), channels_last=False).train()
    assert type(model.decoder2) is SplitUp
    width = 2 * model.decoder2.transp_conv.conv.out_channels
    seen = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.shape) or t, lambda t: t)
    with hooks:
        model(image)
    assert not [s for s in seen if s[1:] == (width, 32, 32, 32)]


@pytest.mark.parametrize("method", ["full", "tcurlora"])
def test_checkpointing_stores_what_the_full_resolution_blocks_are_given(tiny, image, method):
    model = adapt(tiny, method, **({"rank": 3} if method == "tcurlora" else {}))
    speed_up(model, checkpointing=True).train()
    # the image, the skip, and what `out` is given
    assert len({t.untyped_storage().data_ptr() for t in saved_at_full_resolution(model, image)}) <= 3


def test_a_checkpointed_step_holds_the_volumes_of_one_sample_at_a_time(build):
    def peak(*, checkpointing):
        network = build(img_size=[64, 64, 64], feature_size=16)
        model = speed_up(adapt(network, "tcurlora", rank=3), checkpointing=checkpointing).train()
        images = torch.randn(2, 1, 64, 64, 64)
        return peak_of_tensors(lambda: model(images).square().sum().backward(), torch.device("cpu"))

    assert peak(checkpointing=True) < 0.6 * peak(checkpointing=False)


def test_a_skip_that_needs_a_gradient_is_joined_once(tiny, image):
    model = speed_up(adapt(tiny, "full")).train()
    width = 2 * model.decoder2.transp_conv.conv.out_channels
    joined = [t for t in saved_at_full_resolution(model, image) if t.shape[1] == width]
    assert len({t.untyped_storage().data_ptr() for t in joined}) == 1


def test_attention_that_needs_more_than_the_kernel_gives_stays_monais():
    from monai.networks.nets import UNETR

    network = UNETR(1, 2, (32, 32, 32), feature_size=4, hidden_size=24, mlp_dim=48, num_heads=2, save_attn=True)
    speed_up(network)
    assert type(network.vit.blocks[0].attn) is SABlock


def test_bf16_stays_within_its_rounding(image, distance):
    sizes = {"in_channels": 1, "out_channels": 2, "img_size": [32] * 3, "feature_size": 4, "hidden_size": 24,
             "mlp_dim": 48, "num_heads": 2}  # fmt: skip
    torch.manual_seed(0)
    model = speed_up(build_unetr(**sizes).eval(), half=True)
    expected = model(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert distance(model(image).float(), expected) < 0.05


def test_a_volume_smaller_than_the_kernel_is_convolved_in_float32_and_no_gradient_is_nan():
    """PyTorch's bfloat16 kernel gave NaN in about one of ten such gradients."""
    network = speed_up(torch.nn.Sequential(torch.nn.Conv3d(64, 64, 3, padding=1, bias=False)), half=True)
    for side, kind in ((4, torch.bfloat16), (2, torch.float32)):
        for seed in range(40):
            x = torch.randn(2, 64, side, side, side, generator=torch.Generator().manual_seed(seed))
            network.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = network(x)
            assert y.dtype == kind
            torch.full((2_000_000,), float("nan"))  # what the kernel would find in memory
            y.float().sum().backward()
            assert torch.isfinite(network[0].weight.grad).all()
