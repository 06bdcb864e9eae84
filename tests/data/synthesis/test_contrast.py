from __future__ import annotations

import torch

from tcurlora_seg.data.synthesis.contrast import draw_contrast
from tcurlora_seg.randomness import generator

VALUES = (0, 2, 3, 4, 17, 24, 41, 42, 43, 53, 507, 1028, 2028, 4028)


def test_left_and_right_look_alike_and_parcels_look_like_what_they_are_a_part_of() -> None:
    for t1_like in (True, False):
        mean, deviation = draw_contrast(VALUES, generator("c"), t1_like=t1_like)
        for left, right in ((2, 41), (3, 42), (4, 43), (17, 53), (3, 1028), (3, 2028), (2, 4028)):
            assert mean[left] == mean[right] > 0 and deviation[left] == deviation[right] > 0
        assert mean[0] == deviation[0] == 0  # air


def test_a_contrast_like_t1_has_its_order_of_tissues_and_a_random_one_has_any() -> None:
    orders = set()
    for k in range(40):
        mean, _ = draw_contrast(VALUES, generator("c", k), t1_like=True)
        assert mean[4] < mean[3] < mean[2] == 1 and mean[24] < mean[17] < mean[2]
        random, _ = draw_contrast(VALUES, generator("c", k), t1_like=False)
        orders.add(tuple(torch.argsort(random[[2, 3, 4]]).tolist()))
    assert len(orders) == 6
