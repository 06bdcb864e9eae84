from __future__ import annotations

import torch
from monai.inferers import sliding_window_inference
from torch import nn

from tcurlora_seg.evaluation.inference import Predictor, labels
from tcurlora_seg.evaluation.window import brain_box

BOX = (slice(3, 15), slice(6, 17), slice(2, 12))


def _head():
    g = torch.Generator().manual_seed(0)
    image = torch.zeros(1, 20, 24, 16)
    image[:, *BOX] = torch.randn(1, 12, 11, 10, generator=g)
    network = nn.Conv3d(1, 3, 3, padding=1)
    with torch.no_grad():
        network.weight.copy_(torch.randn(network.weight.shape, generator=g))
    return image, network


def test_the_box_holds_every_voxel_that_is_not_background_and_is_the_smallest():
    image, _ = _head()
    assert brain_box(image) == BOX
    second = torch.zeros_like(image)
    second[0, 0, 23, 5] = -1.0
    assert brain_box(torch.cat([image, second])) == (slice(0, 15), slice(6, 24), slice(2, 12))


def test_an_empty_volume_is_its_own_box():
    assert brain_box(torch.zeros(2, 3, 4, 5)) == (slice(0, 3), slice(0, 4), slice(0, 5))


def test_inside_the_box_probabilities_are_monais_on_the_box_and_outside_all_is_background():
    image, network = _head()
    probabilities = Predictor(network, window=(8, 8, 8), classes=3, overlap=0.25)(image)
    expected = sliding_window_inference(image[None, :, *BOX], (8, 8, 8), 4, network, 0.25, mode="gaussian")
    torch.testing.assert_close(probabilities[:, *BOX], torch.softmax(expected[0], 0).detach(), atol=1e-5, rtol=1e-5)
    outside = torch.ones(image.shape[1:], dtype=torch.bool)
    outside[BOX] = False
    assert torch.equal(probabilities[:, outside], torch.tensor([[1.0], [0], [0]]).expand(-1, int(outside.sum())))
    found = labels([Predictor(network, window=(8, 8, 8), classes=3, overlap=0.25)], image)
    assert torch.equal(found, probabilities.argmax(0).to(torch.uint8)) and bool(found[BOX].any())
