"""Every error that release_pipeline raises on purpose.

    ReleasePipelineError
    ├── SpecError                  a release's YAML, or a file it names, is wrong
    │   ├── EvaluationSetError     a line of the evaluation set is wrong
    │   └── LogError               a log that is to be replayed is wrong
    ├── WorkspaceError             the workspace did not do what was asked
    │   ├── WorkspaceUnreachable   nothing answers at the workspace's address
    │   ├── NotConfigured          no host, credentials or warehouse is configured
    │   ├── StatementFailed        the SQL warehouse refused or failed a statement
    │   │   ├── TableMissing       a table that was read does not exist
    │   │   └── OutOfTime          a statement was not done in time
    │   ├── TableUnreadable        a table lacks the columns that tell what the gate needs
    │   ├── EndpointError          a serving endpoint refused or failed an operation
    │   │   ├── NotAsked           a request did not come to the model, or its answer not back
    │   │   ├── UpdateInProgress   the endpoint is busy with another update
    │   │   └── UpdateFailed       the new configuration did not become ready
    │   ├── NoAnswer               a write was not answered, or may be tried again
    │   ├── RegistryError          the model registry refused an operation
    │   └── Unanswered             the workspace does not say what somebody may do
    └── ReleaseError               a release cannot go on
        ├── ModelInvalid           the model cannot be logged, loaded or used
        ├── Quarantined            the same code, config and requirements were rejected before
        ├── NotVerified            a read-back differs from what was written
        ├── Superseded             the state is no longer the one that was decided on
        │   └── WroteLate          and something was written before that was known
        ├── Queued                 the release waits for the end of another
        └── NotAllowed             the gate, or the ledger, does not allow the action

Messages are one sentence or two: what is wrong, where, and what to do.
"""


class ReleasePipelineError(Exception):
    """Base of all errors that are raised on purpose."""


class SpecError(ReleasePipelineError):
    """A release's YAML, or a file that it names, is wrong."""


class EvaluationSetError(SpecError):
    """A line of the evaluation set is wrong."""


class LogError(SpecError):
    """A log that is to be replayed is wrong."""


class WorkspaceError(ReleasePipelineError):
    """The workspace did not do what was asked."""


class WorkspaceUnreachable(WorkspaceError):
    """Nothing answers at the workspace's address."""


class NotConfigured(WorkspaceError):
    """No host, credentials or warehouse is configured."""


class StatementFailed(WorkspaceError):
    """The SQL warehouse refused or failed a statement."""


class TableMissing(StatementFailed):
    """A table that was read does not exist."""


class OutOfTime(StatementFailed):
    """The SQL warehouse did not finish a statement in time."""


class TableUnreadable(WorkspaceError):
    """A table lacks the columns that tell what the gate needs."""


class EndpointError(WorkspaceError):
    """A serving endpoint refused or failed an operation."""


class NotAsked(EndpointError):
    """A request did not come to the model, or its answer not back: nothing is known of the model by it."""


class EndpointHidden(WorkspaceError):
    """The endpoint is there, and its settings may not be seen."""


class UpdateInProgress(EndpointError):
    """The endpoint is busy with another update."""


class UpdateFailed(EndpointError):
    """The new configuration did not become ready."""


class NoAnswer(WorkspaceError):
    """A write was not answered, or may be tried again; what was asked may have been done."""


class RegistryError(WorkspaceError):
    """The model registry refused an operation."""


class Unanswered(WorkspaceError):
    """The workspace does not say what somebody may do, or whether something exists."""


class ReleaseError(ReleasePipelineError):
    """A release cannot go on."""


class ModelInvalid(ReleaseError):
    """The model cannot be logged, loaded or used."""


class Quarantined(ReleaseError):
    """The same code, configuration and requirements were rejected before."""


class NotVerified(ReleaseError):
    """A read-back differs from what was written."""


class Superseded(ReleaseError):
    """The state is no longer the one that was decided on."""


class WroteLate(Superseded):
    """The state is no longer the one that was decided on, and something was written before that was known."""


class Queued(ReleaseError):
    """The release waits for the end of another one of the same model."""


class NotAllowed(ReleaseError):
    """The gate, or the ledger, does not allow the action."""


# By the names of the Databricks SDK's errors, which is not imported here; these mean the same whatever was asked.
_REMEDIES = {
    "Unauthenticated": "the credentials are wrong or have ended: check DATABRICKS_TOKEN, or the profile",
    "TooManyRequests": "wait and try again, or raise the rate limits of the endpoint's AI Gateway",
}


def first_sentence(error: BaseException) -> str:
    """What another library's error says, and what to do where that is known.

    It is without the client's configuration that the Databricks SDK adds. Of a call that was tried until its time was
    over it is what the service said last.
    """
    cause = error.__cause__
    if isinstance(error, TimeoutError) and getattr(cause, "error_code", None):
        assert cause is not None
        return f"{first_sentence(cause)} ({_line(error)})"
    remedies = [_REMEDIES[each.__name__] for each in type(error).__mro__ if each.__name__ in _REMEDIES]
    return "; ".join([_line(error), *remedies])


def _line(error: BaseException) -> str:
    lines = str(error).split(" Config: host=")[0].strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")
