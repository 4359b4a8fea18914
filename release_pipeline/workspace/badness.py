"""What people and scorers say, read into badness: 0 is entirely good, 1 entirely bad, None cannot be read."""

import math
from enum import Enum
from typing import Any, Final

#: Words that judge, whatever the scale.
GOOD_WORDS: Final = frozenset({"pass", "passed", "positive", "good", "correct", "thumbs_up"})
BAD_WORDS: Final = frozenset({"fail", "failed", "negative", "bad", "incorrect", "thumbs_down"})
#: Words that state: the higher end of the scale, and the lower one.
TRUE_WORDS: Final = frozenset({"true", "yes"})
FALSE_WORDS: Final = frozenset({"false", "no"})
# A number computed by somebody else may miss the end of the scale by the last digits.
_ROUNDING: Final = 1e-9


def badness_of(value: Any, *, worst: float, best: float) -> float | None:
    """The badness of one value.

    Booleans, yes and no stand for the ends of the scale: true is the higher number, so it is good where ``best`` is the
    higher one, and bad on an inverted scale (``worst: 1``, ``best: 0``). Words that judge, such as pass and negative,
    mean the same on every scale. A text may also hold a number.

    Args:
        value: A boolean, a number or a text; anything else cannot be read.
        worst: The number that means entirely bad.
        best: The number that means entirely good; another one than ``worst``.

    Returns:
        The badness, or None for what cannot be read: other words, nothing, NaN, numbers outside the scale.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        word = value.strip().casefold().replace(" ", "_")
        if word in GOOD_WORDS | BAD_WORDS:
            return float(word in BAD_WORDS)
        if word in TRUE_WORDS | FALSE_WORDS:
            value = word in TRUE_WORDS
        else:
            try:
                value = float(word)
            except ValueError:
                return None
    if isinstance(value, bool):
        return float(value is not (best > worst))
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    badness = (best - value) / (best - worst)
    return min(max(badness, 0.0), 1.0) if -_ROUNDING <= badness <= 1 + _ROUNDING else None
