"""Generated pages of the documentation site: commands, recipe keys, and files of the repository's root."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from mkdocs.structure.files import File

import shrinkserve
from shrinkserve.cli import app
from shrinkserve.config import document_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
COPIED = {
    "bench/REPORT.md": "reference/benchmark.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""File of the repository -> its page."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in COPIED.items()}
    pages["reference/commands.md"] = "\n".join(_commands(typer.main.get_command(app), "shrinkserve"))
    pages["reference/recipes.md"] = (
        f"# Recipe keys\n\nThe output of `shrinkserve recipe show --defaults`:\n\n```toml\n{document_recipe(None)}```\n"
    )
    pages["reference/python.md"] = "\n".join(_python_api())
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Change links to copied files, and links of copied files into the documentation."""
    up = "../" * page.file.src_uri.count("/")
    for source, target in COPIED.items():
        markdown = re.sub(rf"\]\((\.\./)*{re.escape(source)}", f"]({up}{target}", markdown)
    return re.sub(r"\]\(docs/", f"]({up}", markdown) if page.file.src_uri in COPIED.values() else markdown


def _python_api() -> Iterator[str]:
    """Return the page of the Python API: every name of the package."""
    yield "# Python API\n\nEvery command is also a function with the same options. Names load on first use.\n"
    yield "```python\nimport shrinkserve as ss\n```\n"
    for name, place in shrinkserve._PUBLIC.items():
        yield _reference(name, place.replace(":", "."))
    yield _reference("errors", "shrinkserve.errors")


def _reference(name: str, path: str) -> str:
    options = f"    options:\n      heading: ss.{name}\n      toc_label: ss.{name}\n"
    return f"::: {path}\n{options}"


def _commands(command: Any, path: str) -> Iterator[str]:
    """Return the help of a command and of its subcommands as Markdown."""
    context = command.make_context(path, ["--help"], resilient_parsing=True)
    depth = "#" * min(3, path.count(" ") + 1)
    title = "Commands" if " " not in path else f"`{path}`"
    yield f"{depth} {title}\n\n```\n{command.get_help(context)}\n```\n"
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, f"{path} {name}")
