"""What a network answers to images and prompts.

This module imports torch as it loads; import it inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from busistore.errors import RunFailed
from busistore.segmenters.augment import Sample, plain
from busistore.segmenters.base import Batch, Lesions, Segmenter
from busistore.segmenters.prompts import BACKGROUND, Box, Click, centre_click

AT_ONCE = 8  # images of one batch where there are no gradients
NO_LESION = -1e4  # the logits of an image that nothing is to be looked for in
Prompt = Click | Box | None
Prompts = Callable[[np.ndarray, tuple[Sample, ...]], Sequence[Prompt]]


def logits_of(segmenter: Segmenter, network: nn.Module, inputs: Batch) -> Tensor | list[Tensor]:
    """float32 logits of a batch, computed in the segmenter's precision; see `Segmenter.logits`."""
    is_half = segmenter.precision == "bf16"
    with torch.autocast(inputs.images.device.type, torch.bfloat16) if is_half else nullcontext():
        made = segmenter.logits(network, inputs)
    return [one.float() for one in made] if isinstance(made, list) else made.float()


def batch(
    samples: tuple[Sample, ...], prompts: Sequence[Click | Box] | None, lesions: Lesions, rows: np.ndarray,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> Batch:  # fmt: skip
    """What the network is given of some samples, `rows` of the lesions, whose prompts are all clicks or all boxes."""
    images = torch.from_numpy(np.stack([s.image for s in samples]))[:, None].float() / 255
    rest: dict[str, Tensor] = {} if sizes is None else {"sizes": torch.tensor(sizes)}
    if lesions.tokens is not None:
        rest["tokens"] = torch.from_numpy(np.asarray(lesions.tokens(rows)))
    if prompts is None:
        return Batch(images, **rest)
    if not isinstance(prompts[0], Click):
        return Batch(images, boxes=torch.tensor(prompts, dtype=torch.float32), **rest)
    points = torch.tensor([[click.xy] for click in prompts], dtype=torch.float32)
    return Batch(images, points, torch.tensor([[click.label] for click in prompts]), **rest)


def dices(segmenter: Segmenter, network: nn.Module, lesions: Lesions) -> np.ndarray:
    """(N,) Dice of each image at 256 x 256 pixels under the published click, as the release validates.

    Raises:
        RunFailed: a logit is not finite.
    """
    found = []
    for sample, logits in answers(segmenter, network, lesions):
        if not torch.isfinite(logits).all():
            raise RunFailed(f"{segmenter.name}: an answer to a validation image is not finite; lower the rate")
        pred, true = enlarged(logits, sample.mask.shape) > 0, sample.mask
        found.append((2 * (pred & true).sum() + 1e-5) / (pred.sum() + true.sum() + 1e-5))
    return np.array(found)


def published_clicks(rows: np.ndarray, samples: tuple[Sample, ...]) -> list[Click]:
    """The click of validation and test, on each image's true mask."""
    return [centre_click(sample.mask) for sample in samples]


@torch.no_grad()
def answers(
    segmenter: Segmenter, network: nn.Module, lesions: Lesions, prompts: Prompts = published_clicks
) -> Iterator[tuple[Sample, Tensor]]:
    """Each image as it is, without augmentation, and its logits, (1, H, W) of whatever size the network gives.

    Args:
        prompts: rows (B,) and their samples to a prompt each, clicks or boxes; None for an image in which nothing is
            to be looked for. Not asked of a segmenter that takes none.
    """
    network.eval()
    for rows in np.split(np.arange(len(lesions)), range(AT_ONCE, len(lesions), AT_ONCE)):
        images = [lesions.images[k] for k in rows]
        samples = tuple(plain(image, lesions.masks[k]) for k, image in zip(rows, images))
        given = prompts(rows, samples) if segmenter.prompted else None
        inputs = batch(samples, _without_gaps(given), lesions, rows, [image.shape for image in images])
        made = logits_of(segmenter, network, inputs)
        for k, (sample, logits) in enumerate(zip(samples, made, strict=True)):
            is_left_out = given is not None and given[k] is None
            yield sample, torch.full_like(logits, NO_LESION) if is_left_out else logits


def _without_gaps(prompts: Sequence[Prompt] | None) -> Sequence[Click | Box] | None:
    """Some prompt of the same kind in place of each that is not there: its answer is thrown away."""
    if prompts is None:
        return None
    some = next((p for p in prompts if p is not None), Click((0, 0), BACKGROUND))
    return [some if p is None else p for p in prompts]


def enlarged(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """(1, h, w) logits to (H, W) float32, as they would be in pixels of the original image."""
    if logits.shape[1:] == size:
        return logits[0].numpy()
    return nn.functional.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0, 0].numpy()
