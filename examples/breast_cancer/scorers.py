"""What an answer of the evaluation set is worth."""

from typing import Any


def right(outputs: list[dict[str, Any]], expectations: dict[str, Any]) -> bool:
    """Is the verdict on the one lump that was asked about the true one?"""
    return bool(outputs[0]["malignant"] == expectations["malignant"])
