from __future__ import annotations

import resource
from pathlib import Path

import pytest

from shrinkserve.data.digits import write_digits
from shrinkserve.errors import ArtifactError


def test_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ArtifactError, match="digits: cannot be written"):
            write_digits(tmp_path / "digits")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
