"""Text of others in markdown that Dagster shows: names and labels, which come from the YAML and from users' rows."""

import re
from typing import Final

#: Dagster hides markdown of 1,000 characters behind a link.
INLINE: Final = 999
_SPECIAL: Final = re.compile(r"([\\`*\[\]()|<>~])")


def literal(text: str, *, longest: int = 80) -> str:
    """``text`` on one line, as it is: a label from a row of the inference table must not become a picture."""
    line = " ".join(text.split())
    return _SPECIAL.sub(r"\\\1", line if len(line) <= longest else f"{line[: longest - 1]}…")
