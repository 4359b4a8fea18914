"""What the supervisor tells a scoring process, and what the process reports back."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class WorkerOrder:
    """What a scoring process is told to serve; one line of JSON on its standard input.

    Attributes:
        model_path: Folder that holds the MLmodel file; empty for the stand-in of a foundation model.
        report_path: Where to write the `WorkerReport`.
        key: What each request must carry as ``x-worker-key``; the port is open to every local process.
        secret_variables: Names of the environment variables that no error text may show the value of.
        threads: How many requests are answered at a time.
        traced: Whether requests become traces in the experiment of ``MLFLOW_EXPERIMENT_ID``.
    """

    model_path: str
    report_path: str
    key: str = field(repr=False)
    endpoint: str
    entity: str
    model_name: str
    model_version: str
    traced: bool
    secret_variables: tuple[str, ...] = ()
    threads: int = 4


@dataclass(frozen=True)
class WorkerReport:
    """How loading ended: a port above 0, or 0 and the reason in one line."""

    port: int
    failure: str = ""
