"""Where in its YAML a field of a release stands, and what YAML itself lets pass: a key that is written twice."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

#: Keys and list indices from the attributes down to a field.
Place = Sequence[str | int]
#: The line, from 1, of a place, or of the nearest part above it that is written; None where nothing is.
Lines = Callable[[Place], int | None]


def lines_in(text: str, document: int = 0) -> Lines:
    """Finds lines in the YAML of a component, or of nothing but its attributes; the text is parsed when asked.

    Args:
        text: What the file holds.
        document: Which of its documents, from 0.
    """

    def line(place: Place) -> int | None:
        roots = _roots(text)
        if document >= len(roots):
            return None
        node = roots[document]
        found: int = node.start_mark.line + 1
        for part in _from_root(node, place):
            step = _step(node, part)
            if step is None:
                break
            mark, node = step
            found = mark.line + 1
        return found

    return line


def written_twice(text: str) -> tuple[str, int] | None:
    """The first key that a mapping has twice, dotted, and the line of the second; YAML would silently take that.

    Raises:
        yaml.YAMLError: The text is not YAML.
    """
    return next((found for root in _roots(text) for found in _repeated(root, ())), None)


def _roots(text: str) -> list[Any]:
    import yaml

    # With libyaml twenty times as fast; a pure PyYAML has none.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return list(yaml.compose_all(text, Loader=loader))


def _from_root(root: Any, place: Place) -> list[str | int]:
    inside = _step(root, "attributes") is not None
    return ["attributes", *place] if inside else list(place)


def _step(node: Any, part: str | int) -> tuple[Any, Any] | None:
    """Where the child of a node is written, and the child."""
    if isinstance(node.value, str):
        return None
    if node.id == "sequence":
        at = part if isinstance(part, int) and part < len(node.value) else None
        return None if at is None else (node.value[at].start_mark, node.value[at])
    return next(((key.start_mark, value) for key, value in reversed(node.value) if key.value == str(part)), None)


def _repeated(node: Any, above: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    if node.id == "sequence":
        for index, each in enumerate(node.value):
            yield from _repeated(each, (*above, str(index)))
    elif node.id == "mapping":
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                yield ".".join((*above, name)), key.start_mark.line + 1
            seen.add(name)
            yield from _repeated(value, (*above, name))
