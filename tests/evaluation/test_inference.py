"""Sliding windows: they cover everything, mirroring averages what it says and swaps paired classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tcurlora_seg.evaluation.inference import Predictor


class Voxelwise(nn.Module):
    """Logits that depend on the voxel alone, so that windows cannot matter."""

    def __init__(self, asymmetry: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.asymmetry = asymmetry

    def forward(self, x: Tensor) -> Tensor:
        ramp = self.asymmetry * torch.arange(x.shape[2]).view(1, 1, -1, 1, 1)
        return torch.cat([torch.zeros_like(x), self.scale * x + ramp, -self.scale * x], 1)


IMAGE = torch.randn(1, 19, 8, 13, generator=torch.Generator().manual_seed(0))


def test_windows_blend_into_what_the_network_says_of_each_voxel() -> None:
    network = Voxelwise()
    expected = torch.softmax(network(IMAGE[None]), 1)[0]
    for window in [(8, 8, 8), (32, 32, 32)]:  # smaller and larger than the volume
        probabilities = Predictor(network, window=window)(IMAGE)
        assert probabilities.shape == (3, 19, 8, 13)
        torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=1e-5)


def test_mirroring_averages_over_all_combinations_of_axes_and_swaps_paired_classes() -> None:
    network = Voxelwise(asymmetry=0.1)

    def once(axes: list[int]) -> Tensor:
        flipped = torch.softmax(network(IMAGE[None].flip([a + 2 for a in axes])), 1).flip([a + 2 for a in axes])[0]
        return flipped[[0, 2, 1]] if 0 in axes else flipped

    expected = (once([]) + once([0]) + once([1]) + once([0, 1])) / 4
    whole = IMAGE.shape[1:]  # one window without padding, since the ramp counts from its edge
    predictor = Predictor(network, window=whole, mirror_axes=(0, 1), mirror_pairs=((1, 2),))
    torch.testing.assert_close(predictor(IMAGE), expected.detach(), atol=1e-5, rtol=1e-5)
    plain = Predictor(network, window=whole)
    assert not torch.allclose(plain(IMAGE), expected.detach(), atol=1e-3)


def test_inference_switches_dropout_off_and_back_on() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Dropout(0.5)).train()
    predictor = Predictor(network, window=(8, 8, 8))
    assert torch.equal(predictor(IMAGE), predictor(IMAGE))
    assert network.training
