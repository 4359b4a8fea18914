"""The one SQL warehouse."""

from typing import Final

from release_pipeline.local_workspace.errors import NotFound

WAREHOUSE_ID: Final = "local"


def require_warehouse(warehouse_id: str) -> None:
    """Raises NotFound where there is no such SQL warehouse."""
    if warehouse_id != WAREHOUSE_ID:
        raise NotFound(f"SQL warehouse {warehouse_id} does not exist; the local workspace has one, '{WAREHOUSE_ID}'.")
