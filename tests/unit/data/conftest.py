from __future__ import annotations

from pathlib import Path

import pytest

from shrinkserve.data.digits import write_digits


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits dataset; read only."""
    target = tmp_path_factory.mktemp("data") / "digits"
    write_digits(target)
    return target
