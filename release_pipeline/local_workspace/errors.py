"""The errors that the local workspace answers, in the service's own shape.

    ApiError
    ├── InvalidParameter   400 INVALID_PARAMETER_VALUE
    ├── PermissionDenied   403 PERMISSION_DENIED
    ├── NotFound           404 RESOURCE_DOES_NOT_EXIST
    ├── AlreadyExists      400 RESOURCE_ALREADY_EXISTS
    └── Conflict           409 RESOURCE_CONFLICT

A body is ``{"error_code": ..., "message": ...}``; clients branch on the code. A client's mistake is never
answered with 5xx or 429, because mlflow retries those for minutes.
"""

from typing import Any


class ApiError(Exception):
    """An answer with an error code. ``status`` is the HTTP status, ``error_code`` the service's name for it."""

    status = 400
    error_code = "BAD_REQUEST"

    def __init__(self, message: str, *, status: int | None = None, error_code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if status is not None:
            self.status = status
        if error_code is not None:
            self.error_code = error_code

    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        return {"error_code": self.error_code, "message": self.message}


class InvalidParameter(ApiError):
    """A field has a value that the service refuses."""

    error_code = "INVALID_PARAMETER_VALUE"


class PermissionDenied(ApiError):
    """The caller is known and may not do this."""

    status = 403
    error_code = "PERMISSION_DENIED"


class NotFound(ApiError):
    """The named thing does not exist."""

    status = 404
    error_code = "RESOURCE_DOES_NOT_EXIST"


class AlreadyExists(ApiError):
    """A thing of that name exists already."""

    error_code = "RESOURCE_ALREADY_EXISTS"


class Conflict(ApiError):
    """The thing is in a state that does not allow the operation now."""

    status = 409
    error_code = "RESOURCE_CONFLICT"
