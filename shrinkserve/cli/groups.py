"""A command group that need not be told which of its commands is meant."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class RunByDefault(TyperGroup):
    """``train RECIPE ...`` is ``train run RECIPE ...``: the first word is for `run` unless it is a command or help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = args if args and args[0] in {*self.commands, "-h", "--help"} else ["run", *args]
        return super().parse_args(ctx, words)
