"""How a link fails, and with what evidence."""

from __future__ import annotations

from harness.link.hello import Hello


class LinkError(Exception):
    """The link failed. Carries what there is to see: bounded, printable."""

    def __init__(
        self,
        message: str,
        *,
        last_frames: tuple[str, ...] = (),
        console_text: str = "",
        notes: tuple[str, ...] = (),
        request_seq: int = 0,
    ) -> None:
        super().__init__(message)
        self.last_frames = last_frames
        self.console_text = console_text
        self.notes = notes
        self.request_seq = request_seq


class LinkTimeout(LinkError):
    """No answer came by the deadline, and nothing else that explains why."""


class LinkReset(LinkError):
    """The machine was reset: the executor said a second hello. The link is of no use any more."""

    hello: Hello


class LinkClosed(LinkError):
    """The console is gone."""


class LinkGarbage(LinkError):
    """What came makes no sense: no valid frame by the deadline, or answers that contradict each other."""


class LinkRefused(LinkError):
    """The executor refused the same request again and again."""

    reason: int = 0
