"""What a scoring process answers instead of a prediction."""


class ScoringError(Exception):
    """A request that gets an error instead of an answer."""

    def __init__(self, status: int, error_code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error_code": error_code, "message": message}
