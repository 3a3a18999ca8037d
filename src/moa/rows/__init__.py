"""Rows: read from files and pipes, written as lines of JSON as each is done, and resumed.

`read` gives the rows of a file or a pipe, malformed ones included. `RowFile` keeps what became of
them: it is never overwritten by accident, written by one process at a time, and says which rows are
left to do.
"""

from moa._files import plain as plain
from moa.rows.files import RowFile as RowFile
from moa.rows.lines import digest_of as digest_of
from moa.rows.lines import exported as exported
from moa.rows.lines import line as line
from moa.rows.lines import taken as taken
from moa.rows.reading import STDIN as STDIN
from moa.rows.reading import Format as Format
from moa.rows.reading import Line as Line
from moa.rows.reading import aside as aside
from moa.rows.reading import count as count
from moa.rows.reading import format_of as format_of
from moa.rows.reading import jsonl as jsonl
from moa.rows.reading import literal as literal
from moa.rows.reading import read as read
from moa.rows.reading import typed as typed
from moa.rows.reading import with_text as with_text
