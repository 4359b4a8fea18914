"""The faults that a call can meet."""

from enum import StrEnum

from tests.faults.calls import Call


class Fault(StrEnum):
    """What happens to one call of a run, and with it to the run."""

    KILL_BEFORE = "killed before"
    """The run's process gets SIGKILL; the call never reaches the workspace."""
    KILL_AFTER = "killed after"
    """The workspace does what was asked; the run's process gets SIGKILL before it hears of it."""
    DROPPED = "answer dropped"
    """The workspace does what was asked; the connection ends without an answer, once."""
    CUT = "always dropped"
    """The same, at every try of the client."""
    TOO_MANY = "429"
    """Answered with 429 at every try of the client; the workspace hears of none of them."""
    ERROR = "500"
    """The same with 500."""
    UNAVAILABLE = "503"
    """The same with 503."""
    LOST = "timed out, not done"
    """No answer within the client's time; the workspace never hears of it."""
    LATE = "timed out, done"
    """No answer within the client's time; the workspace does what was asked."""
    TWICE = "sent twice"
    """The workspace gets it two times, as from a network that repeats; the second answer comes back."""
    UPDATE_FAILED = "UPDATE_FAILED"
    """The workspace takes the new configuration of the endpoint, and later fails to activate it."""
    NOTHING = "silently nothing"
    """Answered as if it had been done; nothing was done."""

    def can_meet(self, call: Call) -> bool:
        """Whether the fault leaves something else behind, at this call, than every other fault does.

        A read changes nothing. So a kill after it is a kill before the next call; a read that is repeated is the read;
        of its answer it is the same whether it is dropped once and asked for again, or not dropped, and whether it is
        late or never on its way.
        """
        if self is Fault.UPDATE_FAILED:
            return call.updates_endpoint
        return call.writes or self in OF_READS

    @property
    def stays(self) -> bool:
        """Whether the client's own tries of the same call meet it again."""
        return self in (Fault.CUT, Fault.TOO_MANY, Fault.ERROR, Fault.UNAVAILABLE, Fault.LOST, Fault.LATE)


#: Faults that a read can meet as well.
OF_READS = frozenset({Fault.KILL_BEFORE, Fault.CUT, Fault.TOO_MANY, Fault.ERROR, Fault.UNAVAILABLE, Fault.LOST})
#: Answers of faults that are one: status, error code, message.
ANSWERS = {
    Fault.TOO_MANY: (429, "REQUEST_LIMIT_EXCEEDED", "Too many requests."),
    Fault.ERROR: (500, "INTERNAL_ERROR", "Something went wrong."),
    Fault.UNAVAILABLE: (503, "TEMPORARILY_UNAVAILABLE", "The service is not available."),
}
