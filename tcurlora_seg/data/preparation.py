"""Preparation, the deterministic part: from a file's voxels to the network's input, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from tcurlora_seg.data.notes import note
from tcurlora_seg.errors import UserError

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from monai.transforms import Compose
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Turning to RAS, cropping to the brain, resampling, and scaling of the intensities.

    Scaling, per channel: "zscore", (x − mean) / std over the voxels above 0, the background left at 0 (the paper's);
    "zscore_image", the same over all voxels (nnU-Net's); "window", `limits` = [low, high] to [0, 1] with what lies
    outside clipped (CT); "percentiles", the same between two percentiles of the voxels above 0. Where values lie on
    both sides of 0, `find_background` says what counts instead of the voxels above 0.

    Attributes:
        spacing: voxel size in mm to resample to; None leaves the grid alone.
        crop_to_brain: cut away what surrounds the voxels above 0.
        intensity: see above.
        limits: the window, or the two percentiles.
        background: "auto" as above; "zero" takes 0 and below for the background whatever the image is like.

    Raises:
        UserError: arguments that do not fit.
    """

    spacing: list[float] | None = None
    crop_to_brain: bool = True
    intensity: Literal["zscore", "zscore_image", "window", "percentiles"] = "zscore"
    limits: list[float] | None = None
    background: Literal["auto", "zero"] = "auto"

    def __post_init__(self) -> None:
        if self.intensity not in ("zscore", "zscore_image", "window", "percentiles"):
            raise UserError(
                f"preparation.intensity={self.intensity}: choose zscore, zscore_image, window or percentiles"
            )
        if (self.limits is None) != self.intensity.startswith("zscore") or (self.limits and len(self.limits) != 2):
            raise UserError(
                f"preparation.limits={self.limits} with preparation.intensity={self.intensity}: expected [low, high] "
                "for window and percentiles, null for zscore"
            )
        least, most = (0.0, 100.0) if self.intensity == "percentiles" else (-math.inf, math.inf)
        if self.limits and not least <= self.limits[0] < self.limits[1] <= most:
            within = " from 0 to 100" if self.intensity == "percentiles" else ""
            raise UserError(f"preparation.limits={self.limits}: expected [low, high]{within}, low below high")
        if self.background not in ("auto", "zero"):
            raise UserError(f"preparation.background={self.background}: choose auto or zero")
        if self.spacing is not None and (len(self.spacing) != 3 or min(self.spacing) <= 0):
            raise UserError(f"preparation.spacing={self.spacing}: expected three sizes in mm, or null")

    def __call__(self, image: MetaTensor, label: MetaTensor | None = None) -> tuple[MetaTensor, MetaTensor | None]:
        """The prepared image and label, each with the way back to its file's grid.

        Args:
            image: (C, X, Y, Z), every channel checked.
            label: (1, X, Y, Z), or None.

        Returns:
            image float32; label uint8, or None.
        """
        import torch
        from monai.transforms.utils import reset_ops_id

        from tcurlora_seg.data.intensity import note_backgrounds, scale

        image = note_backgrounds(image, self.background)
        case = self._geometry({"image": image} if label is None else {"image": image, "label": label})
        reset_ops_id(case)  # so that another process, too, can invert what this one has prepared
        scaled = scale(case["image"], self.intensity, self.limits)
        return scaled, None if label is None else case["label"].round().to(torch.uint8)

    def check(self, channel: Tensor, source: str) -> None:
        """Check that the intensities of one channel can be scaled.

        Args:
            channel: (X, Y, Z) as stored.
            source: the file, for messages.

        Raises:
            UserError: NaN or inf; nothing above 0, or the same everywhere, where the scaling goes by that.
        """
        from tcurlora_seg.data.intensity import find_background

        if not bool(channel.isfinite().all()):
            raise UserError(f"{source} holds NaN or infinite values; repair or leave out this case")
        background = find_background(channel, self.background)
        inside = channel[background.inside(channel)]
        if self.intensity != "window" and (len(inside) == 0 or bool((inside == inside[0]).all())):
            above = " above 0" if background.below else ""
            raise UserError(f"{source} has no two different intensities{above}; is it empty?")
        if not background.below and (self.crop_to_brain or self.intensity != "window"):
            negative, rest = float((channel < 0).double().mean()), 1 - len(inside) / channel.numel()
            found = "no voxel" if background.value is None else f"the value {background.value:.4g} ({rest:.0%})"
            note("negative", f"{source}: {negative:.0%} of its voxels are below 0; {found} is taken for the background")

    def invert(self, prediction: Tensor, image: MetaTensor, *, nearest: bool) -> Tensor:
        """Values brought back from the prepared grid to the grid of the file.

        Args:
            prediction: (K, X, Y, Z) label maps or probabilities.
            image: the prepared image, which remembers what was done to it.
            nearest: whether they are label maps.
        """
        from monai.data import MetaTensor
        from monai.transforms.utils import convert_applied_interp_mode

        mode = "nearest" if nearest else "bilinear"
        moved = MetaTensor(prediction, affine=image.affine)
        moved.applied_operations = convert_applied_interp_mode(image.applied_operations, mode=mode)
        return self._geometry.inverse({"image": moved})["image"].as_tensor()

    @cached_property
    def _geometry(self) -> Compose:
        """Turning, cropping to what shows something in any channel, and resampling."""
        from monai.transforms import Compose, CropForegroundd, Orientationd, Spacingd

        from tcurlora_seg.data.intensity import inside

        keys = ("image", "label")
        steps: list[Any] = [Orientationd(keys, axcodes="RAS", labels=None, allow_missing_keys=True)]
        if self.crop_to_brain:
            steps.append(CropForegroundd(keys, source_key="image", select_fn=inside, allow_missing_keys=True))
        if self.spacing is not None:
            mode = ("bilinear", "nearest")
            steps.append(Spacingd(keys, pixdim=tuple(self.spacing), mode=mode, allow_missing_keys=True))
        return Compose(steps)
