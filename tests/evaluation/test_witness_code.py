"""The packing of adversarial images is lossless, small where attacks leave patterns, and reads earlier versions."""

import lzma

import numpy as np
import pytest
import torch
from perturbed import EPS, moved

from robustctl.evaluation.witness_code import FILTERS, pack, unpack, unpack_earlier
from robustctl.threats import NORMS, Norm, Threat


@pytest.mark.parametrize("norm", NORMS)
def test_packed_images_come_back_bit_by_bit(norm: Norm) -> None:
    threat = Threat.of(norm, EPS[norm])
    for seed in range(5):
        x, x_adv = moved(norm, seed)
        back = unpack(pack(x_adv, x, threat), x, threat)
        assert torch.equal(back.view(torch.int32), x_adv.view(torch.int32))


def test_pixels_at_the_edge_of_the_ball_take_next_to_nothing() -> None:
    threat = Threat.of("linf", EPS["linf"])
    x = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x_adv = (x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).sign() * threat.eps).clamp(0, 1)
    assert len(pack(x_adv, x, threat)) < x.numel() / 4  # against 4 bytes a pixel


def test_pixels_that_were_not_touched_take_next_to_nothing() -> None:
    made = torch.Generator().manual_seed(0)
    x = torch.rand(64, 3, 32, 32, generator=made)
    touched = torch.rand(x.shape, generator=made) < 0.01
    x_adv = torch.where(touched, torch.rand(x.shape, generator=made), x)
    assert len(pack(x_adv, x, Threat.of("l1", "12"))) < 6 * int(touched.sum())  # 4 of them are the pixel's own


@pytest.mark.parametrize("norm", NORMS)
def test_what_an_earlier_version_packed_is_read_bit_by_bit(norm: Norm) -> None:
    x, x_adv = moved(norm, 0)
    bits, near = (image.numpy().reshape(-1).view(np.uint32) for image in (x_adv, x))
    left = (bits - near).view(np.int32)
    folded = ((left << 1) ^ (left >> 31)).view(np.uint8).reshape(-1, 4)
    packed = lzma.compress(bytes(len(bits)) + folded.T.tobytes())
    back = unpack_earlier(packed, x, Threat.of(norm, EPS[norm]))
    assert torch.equal(back.view(torch.int32), x_adv.view(torch.int32))


def test_a_symbol_that_names_no_image_is_refused() -> None:
    x, threat = torch.full((1, 1, 2, 2), 0.5), Threat("linf", 0.1, "0.1")
    for symbol in (6, 200):
        content = bytes([symbol, 0, 0, 0]) + bytes(4)
        with pytest.raises(ValueError, match="there is not"):
            unpack(lzma.compress(content, filters=FILTERS, format=lzma.FORMAT_XZ), x, threat)
