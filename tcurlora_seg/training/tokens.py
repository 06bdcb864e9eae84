"""Deep supervision of the transformer: its tokens predict the classes of small cells of their patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.data.task import IGNORED
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.backbone import backbone_of

_DEPTHS = (0.25, 0.5, 0.75, 1.0)


class TokenSupervision(nn.Module):
    """Cross-entropy between the classes in cubic cells of a patch and a linear prediction from the patch's token:

        L = mean over four depths of  − Σ_cell Σ_c w(c) f(c) log p(c) / Σ_cell Σ_c w(c) f(c)

    f(c) is the share of class c in the cell. A decoder passes little of its gradient to a transformer that starts at
    random; this loss reaches every block directly. The heads train beside the network and are not kept.

    Args:
        network: its backbone names the `transformer`, whose blocks give (batch, patches, width).
        classes: output channels, background included.
        weights: one a class, background first; None weighs all alike.
        cell: side of a cell in voxels; divides the side of a patch.

    Raises:
        UserError: a network without such a transformer.
    """

    def __init__(
        self, network: nn.Module, *, classes: int, weights: Sequence[float] | None = None, cell: int = 4
    ) -> None:
        super().__init__()
        backbone = backbone_of(network)
        if backbone.transformer is None:
            what = f"{type(network).__name__} has no transformer of one patch size"
            raise UserError(f"training.loss=tokens and training.token_loss: {what}")
        transformer: Any = network.get_submodule(backbone.transformer)
        blocks: list[nn.Module] = list(transformer.blocks)
        self.patch, self.cell, self.classes = backbone.multiple, cell, classes
        own = [1.0] * classes if weights is None else list(weights)
        self.register_buffer("weights", torch.tensor(own), persistent=False)
        self._tokens: dict[int, Tensor] = {}
        outputs = (self.patch // cell) ** 3 * classes
        heads, self._hooks = [], []
        for place, depth in enumerate(_DEPTHS):
            block = blocks[max(0, round(depth * len(blocks)) - 1)]
            hook = block.register_forward_hook(lambda _, __, tokens, place=place: self._tokens.update({place: tokens}))
            self._hooks.append(hook)
            width = next(m.normalized_shape[0] for m in block.modules() if isinstance(m, nn.LayerNorm))
            heads.append(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs)))
        self.heads = nn.ModuleList(heads)

    def forward(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of the network's last forward pass, and the last block's prediction.

        Args:
            target: (B, 1, X, Y, Z) class indices.

        Returns:
            The loss; (B, X, Y, Z) class indices, alike in all voxels of a cell.
        """
        shares = self._shares(target)
        weighted = shares * self.get_buffer("weights")
        total = weighted.sum().clamp(min=1e-5)
        losses, logits = [], shares
        for place, head in enumerate(self.heads):
            logits = head(self._tokens.pop(place)).float().unflatten(2, (-1, self.classes))
            losses.append(-(weighted * logits.log_softmax(-1)).sum() / total)
        side = self.patch // self.cell
        found = logits.detach().max(-1).indices.unflatten(2, (side,) * 3)
        found = found.unflatten(1, [n // self.patch for n in target.shape[2:]]).permute(0, 1, 4, 2, 5, 3, 6)
        for axis in (1, 2, 3):
            found = found.flatten(axis, axis + 1).repeat_interleave(self.cell, axis)
        return torch.stack(losses).mean(), found

    def close(self) -> None:
        """Take the hooks off the network."""
        for hook in self._hooks:
            hook.remove()

    def _shares(self, target: Tensor) -> Tensor:
        """(B, patches, cells, classes) share of each class in each cell; of `IGNORED` voxels no class."""
        kept = F.one_hot(target[:, 0].long().where(target[:, 0] != IGNORED, self.classes), self.classes + 1)
        cells = F.avg_pool3d(kept[..., : self.classes].movedim(-1, 1).float(), self.cell)
        side = self.patch // self.cell
        split = cells.unflatten(4, (-1, side)).unflatten(3, (-1, side)).unflatten(2, (-1, side))
        return split.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(1, 3).flatten(2, 4)
