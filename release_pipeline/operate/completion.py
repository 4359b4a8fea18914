"""What a shell offers for MODEL when Tab is pressed: quick, so nothing but the names in the project's files is read."""

from typing import Any

import click
from click.shell_completion import CompletionItem


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The models of the project that begin so, without those that are named already; never an error."""
    named = ctx.params.get(param.name or "")
    taken = set(named) if isinstance(named, tuple) else set()
    return [CompletionItem(name) for name in _names() if name.startswith(incomplete) and name not in taken]


def _names() -> list[str]:
    import yaml

    from release_pipeline.operate.spec_files import spec_files

    found: set[str] = set()
    for file in spec_files():
        try:
            documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue  # a command says what is wrong with it; a shell that completes must not
        found.update(name for each in documents if isinstance(name := _name(each), str) and "{{" not in name)
    return sorted(found)


def _name(document: Any) -> Any:
    attributes = document.get("attributes", document) if isinstance(document, dict) else None
    return attributes.get("name") if isinstance(attributes, dict) else None
