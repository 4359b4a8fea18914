"""The browser of the session."""

from tests.browser.conftest import chromium

__all__ = ["chromium"]
