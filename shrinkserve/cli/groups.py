"""Command group with a default command."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class RunByDefault(TyperGroup):
    """Group that runs its command `run` unless the first word names a command: ``train X`` is ``train run X``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = args if args and args[0] in {*self.commands, "-h", "--help"} else ["run", *args]
        return super().parse_args(ctx, words)
