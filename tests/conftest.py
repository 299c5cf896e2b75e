"""What every test gets: errors that were logged fail it, and skips are counted in CI.

pytest-twisted alone lets unhandled errors in Deferreds pass (CONCH.md, "Packaging and testing").
A test that expects a logged failure takes the fixture `logged_errors` and flushes it by type.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from twisted.logger import LogEvent, LogLevel, globalLogBeginner, globalLogPublisher

#: Set in CI: a client that is not installed is a failure there, not a skip.
REQUIRED = os.environ.get("IMMICH_CONCH_TEST_CLIENTS") == "required"
#: The one thing a machine may lack even there.
FUSE = "FUSE does not run on this machine"


class LoggedErrors:
    """Failures that were logged during a test."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_failure") is not None or event.get("log_level") is LogLevel.critical:
            self.events.append(event)

    def flush(self, *kinds: type[BaseException]) -> list[LogEvent]:
        """Take the failures of these kinds out; they were expected."""
        gc.collect()
        mine = [event for event in self.events if event["log_failure"].check(*kinds)]
        self.events = [event for event in self.events if event not in mine]
        return mine


@pytest.fixture(autouse=True)
def logged_errors() -> Iterator[LoggedErrors]:
    """Fail a test that left a logged failure behind."""
    errors = LoggedErrors()
    globalLogPublisher.addObserver(errors)
    try:
        yield errors
        gc.collect()
    finally:
        globalLogPublisher.removeObserver(errors)
    if errors.events:
        texts = [
            event["log_failure"].getTraceback() if event.get("log_failure") else str(event)
            for event in errors.events
        ]
        pytest.fail("logged errors:\n" + "\n".join(texts))


def pytest_collection_finish() -> None:
    """Before the first test: logging begins.

    Until then Twisted keeps the last events for whom it may concern, and with them whole demos.
    """
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    _leave_alone()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> object:
    """After the last test of a module."""
    result = yield
    if nextitem is None or nextitem.path != item.path:
        _leave_alone()
    return result


def _leave_alone() -> None:
    """Let the garbage collections that follow look at no more than what is made from here on.

    Each test ends with one.  Walking through all modules and all tests anew took them 0.1 to 0.2 s
    each; what a test leaves behind is made in it, and is found as before.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    """Where all clients are required, a skip is a failure; FUSE alone may be missing."""
    report = yield
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        if FUSE not in reason:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped where nothing may be: {reason}"
    return report
