from __future__ import annotations

import torch

from shrinkserve.config import AugmentConfig
from shrinkserve.training.update.mixing import mix

IMAGES = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 16, 16).contiguous()
LABELS = torch.tensor([0, 1, 2, 3])


def test_mix_is_off_by_default() -> None:
    assert mix(IMAGES, LABELS, AugmentConfig()) is None


def test_mixup_blends_pairs_with_the_share_of_the_loss() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        found = mix(IMAGES, LABELS, AugmentConfig(mixup=0.4))
        assert found is not None
        expected = found.share * IMAGES + (1 - found.share) * IMAGES.flip(0)
        torch.testing.assert_close(found.images, expected)
        assert found.others.tolist() == [3, 2, 1, 0]


def test_cutmix_share_is_the_area_that_is_kept() -> None:
    torch.manual_seed(0)
    shares = set()
    for _ in range(50):
        found = mix(IMAGES, LABELS, AugmentConfig(cutmix=1.0))
        assert found is not None
        kept = (found.images == IMAGES).float().mean((1, 2, 3))
        assert torch.allclose(kept, torch.full((4,), found.share))
        pasted = found.images != IMAGES
        assert torch.equal(found.images[pasted], IMAGES.flip(0)[pasted])
        shares.add(round(found.share, 3))
    assert len(shares) > 20
    assert torch.equal(IMAGES[:, 0, 0, 0], LABELS.float())  # the input is not changed


def test_mix_draws_depend_on_torchs_generator_only() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        found = [mix(IMAGES, LABELS, AugmentConfig(mixup=1.0, cutmix=1.0)) for _ in range(10)]
        drawn.append([one.images for one in found if one is not None])
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
