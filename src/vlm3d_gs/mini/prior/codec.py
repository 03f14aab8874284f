"""The embedded codec: a linear patch encoder with a small convolutional decoder, as a stock `AutoencoderTiny`.

The encoder computes the principal components of 4x4 patches, with weights written into the convolutions of the network.
Being linear with orthogonal rows, it passes a gradient on the latents back to the image without the noise of a deep
encoder's Jacobian. The decoder is trained (`python -m vlm3d_gs.mini.train --what vae`).
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

PATCH_PX = 4
LATENT_CHANNELS = 12
WIDTH = 48
WHITENING = 0.5
"""Power of the standard deviation by which each component is divided: 0 keeps the spectrum, 1 flattens it."""
SCALING_FACTOR = 2.5
"""Diffusion latents are encoder outputs times this: their mean square is 1, that of the encoder outputs less, since
the decoder clamps softly at 3."""


def new_codec() -> AutoencoderTiny:
    """Return the untrained network."""
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 3,
        decoder_block_out_channels=(WIDTH,) * 3,
        num_encoder_blocks=(0, 0, 0),
        num_decoder_blocks=(2, 1, 0),
        latent_channels=LATENT_CHANNELS,
        scaling_factor=SCALING_FACTOR,
    )


def set_patch_components(codec: AutoencoderTiny, images: Tensor) -> float:
    """Write the principal components of 4x4 patches into the encoder and freeze it.

    Args:
        codec: changed in place.
        images: [B, 3, H, W], 0 to 1, a sample of what will be encoded.

    Returns:
        PSNR in dB of projecting `images` onto the kept components, the best that a linear decoder could reach.
    """
    patches = (
        torch.nn.functional.unfold(images.double(), PATCH_PX, stride=PATCH_PX)
        .transpose(1, 2)
        .reshape(-1, 48)
    )
    mean = patches.mean(0)
    eigenvalues, vectors = torch.linalg.eigh((patches - mean).T.cov())
    order = eigenvalues.argsort(descending=True)[:LATENT_CHANNELS]
    components, deviations = vectors[:, order].T, eigenvalues[order].sqrt()

    kept = (patches - mean) @ components.T @ components + mean
    psnr_db = float(-10.0 * torch.log10((kept - patches).square().mean()))

    # Partly whitened, and scaled so that diffusion latents have a mean square of 1.
    scales = deviations.pow(-WHITENING)
    scales = scales / (scales * deviations).square().mean().sqrt() / SCALING_FACTOR
    _write_projection(codec, components * scales[:, None], mean)
    codec.encoder.requires_grad_(False)
    return psnr_db


def _write_projection(codec: AutoencoderTiny, projection: Tensor, mean: Tensor) -> None:
    """Write a projection [C, 48] of centred patches into the convolutions of the encoder.

    The first layer copies the colours, two strided layers gather 2x2 neighbours each, the last applies the projection.
    """
    first, second, third, last = codec.encoder.layers
    for layer in (first, second, third, last):
        layer.weight.data.zero_()
        if layer.bias is not None:
            layer.bias.data.zero_()

    for channel in range(3):
        first.weight.data[channel, channel, 1, 1] = 1.0

    # Neighbours at offsets 0 and 1 are the taps 1 and 2 of a 3x3 kernel.
    for layer, depth in ((second, 3), (third, 12)):
        for tap in range(4):
            for channel in range(depth):
                layer.weight.data[tap * depth + channel, channel, 1 + tap // 2, 1 + tap % 2] = 1.0

    # From the order of gathering to that of `unfold`: channel, row, column.
    for outer in range(4):
        for inner in range(4):
            row, column = 2 * (outer // 2) + inner // 2, 2 * (outer % 2) + inner % 2
            for channel in range(3):
                source = channel * 16 + row * 4 + column
                gathered = outer * 12 + inner * 3 + channel
                last.weight.data[:, gathered, 1, 1] = projection[:, source]
    last.bias.data.copy_(-(projection @ mean))
