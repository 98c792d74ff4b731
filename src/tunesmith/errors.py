"""What went wrong, said once: where, what was found, what to do. Each kind has a documented exit code."""

from collections.abc import Iterable
from difflib import get_close_matches

MOST_NAMED = 20
"""Names that a message lists before it only counts them."""


class TunesmithError(Exception):
    """Any end of a command that is foreseen; the command line prints it in one line, without a traceback."""

    exit_code = 1


class UserError(TunesmithError):
    """The input, the recipe or the machine does not allow what was asked for.

    where: the file, line or key it happened at. found: what stood there. fix: what to do about it.
    """

    exit_code = 2

    def __init__(self, where: str, found: str, fix: str = "") -> None:
        self.where, self.found, self.fix = where, found, fix
        super().__init__(f"{where}: {found}" + (f"; {fix}" if fix else ""))


class MissingExtra(UserError):
    """An optional part is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(what, f"needs the extra '{extra}'", f"pip install 'tunesmith[{extra}]'")


class BadRow(TunesmithError):
    """One row cannot be used. The reader adds file and line; field and expectation come from the task."""

    exit_code = 2

    def __init__(self, field: str, found: str, expected: str, reason: str = "bad_value") -> None:
        self.field, self.found, self.expected, self.reason = field, found, expected, reason
        super().__init__(f"field '{field}': found {found}, expected {expected}")


class TrainingStopped(TunesmithError):
    """Training cannot go on (a loss or gradient is not finite); the last good state is on disk."""

    exit_code = 3


class CheckFailed(TunesmithError):
    """A promise was tested and did not hold, such as the parity of an exported model."""

    exit_code = 4


class RunBusy(TunesmithError):
    """Another process is working in this run folder."""

    exit_code = 5


class Interrupted(TunesmithError):
    """Stopped by a signal after saving; the same command goes on from there."""

    def __init__(self, signal_number: int, saved: str) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(f"stopped by signal {signal_number}; {saved}")


def shown(value: object, longest: int = 60) -> str:
    """`value` as a short, printable, quoted text, safe for a terminal: control characters are escaped."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: longest + 1])
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return f"'{text}'" if isinstance(value, str) else text


def named(path: object) -> str:
    """A path as it may stand in a message: printable, and not too long."""
    return shown(str(path), 200)[1:-1]


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the closest known one, or all when none is close."""
    names = sorted(known)
    folded = {known_name.lower(): known_name for known_name in names}
    close = get_close_matches(name.lower(), list(folded), n=1, cutoff=0.6)
    if close:
        return f"did you mean '{folded[close[0]]}'?"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"known: {', '.join(names[:MOST_NAMED])}{more}" if names else "none are known"


def kind(value: object) -> str:
    """What `value` is, in words for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return f"a mapping with {', '.join(map(shown, list(value)[:3])) or 'no keys'}"
    if isinstance(value, bool):
        return str(value).lower()
    return shown(value)
