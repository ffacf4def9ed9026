"""Table for all commands: how many images of a dataset are used, and why others are not."""

from __future__ import annotations

from collections.abc import Sequence

from shrinkserve.data.dataset import SPLITS, SplitUsage

USAGE_HEADINGS = ("split", "used", "skipped", "why", "classes without images")
SHOWN = 5


def usage_rows(usages: Sequence[SplitUsage]) -> list[tuple[str, ...]]:
    """Return the table's rows: one for each split, also for one that the dataset lacks.

    Example:
        >>> from shrinkserve.data.dataset import SplitUsage
        >>> usage_rows([SplitUsage("train", 3, {"suffix .gif": 2}, ["b"])])
        [('train', '3', '2', '2 suffix .gif', '1: b'), ('validation', 'missing', '', '', '')]
    """
    rows: list[tuple[str, ...]] = []
    for split in SPLITS:
        found = [usage for usage in usages if usage.split == split]
        if not found:
            rows.append((split, "missing", "", "", ""))
        for usage in found:
            why = ", ".join(f"{count} {reason}" for reason, count in sorted(usage.skipped.items()))
            rows.append((split, str(usage.used), str(sum(usage.skipped.values())), why, _named(usage.empty_classes)))
    return rows


def _named(classes: list[str]) -> str:
    if not classes:
        return "0"
    more = ", ..." if len(classes) > SHOWN else ""
    return f"{len(classes)}: {', '.join(classes[:SHOWN])}{more}"
