"""Logs: records as commands and servers print them, which no text in them can forge."""

from __future__ import annotations

import logging

from moa.core._text import escape_controls


class LineFormatter(logging.Formatter):
    """Formats a record as one line; those of a traceback follow indented.

    A message may quote a model, a server or a client. Its line breaks and control characters are
    written as escapes, so that it can't look like another record.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line = f"{record.levelname.lower()}: {escape_controls(record.getMessage())}"
        if not record.exc_info:
            return line
        trace = self.formatException(record.exc_info).splitlines()
        return "\n".join([line, *(f"  {escape_controls(part)}" for part in trace)])
