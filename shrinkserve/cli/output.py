"""Printing of text that may come from outside."""

from __future__ import annotations

import typer

from shrinkserve.text import printable


def say(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Print `text`; control characters other than line breaks and tabs are shown as escapes."""
    typer.echo(printable(str(text), keep="\n\t"), err=err, nl=nl)
