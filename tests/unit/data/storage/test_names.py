from __future__ import annotations

import pytest

from shrinkserve.data.storage.names import numbered_names


@pytest.mark.parametrize("classes", [["crane", "crane"], ["background", "crane", "crane", "crane (1)"]])
def test_numbered_names_are_unique(classes: list[str]) -> None:
    assert len(set(numbered_names(classes))) == len(classes)
