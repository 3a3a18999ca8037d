"""Rows: read from files and pipes, written as lines of JSON as each is done, and resumed.

`read` gives the rows of a file or a pipe, malformed ones included. `RowFile` keeps what became of
them: it is never overwritten by accident, written by one process at a time, and says which rows are
left to do. `work_through` is the loop between.
"""

from moa.rows.loop import work_through as work_through
from moa.rows.reading import STDIN as STDIN
from moa.rows.reading import Format as Format
from moa.rows.reading import count as count
from moa.rows.reading import format_of as format_of
from moa.rows.reading import literal as literal
from moa.rows.reading import read as read
from moa.rows.reading import read_in_thread as read_in_thread
from moa.rows.reading import read_models as read_models
from moa.rows.reading import with_text as with_text
from moa.rows.records import line as line
from moa.rows.records import resources_of as resources_of
from moa.rows.tables import export_lines as export_lines
from moa.rows.where import Where as Where
from moa.rows.writing import RowFile as RowFile
from moa.rows.writing import result_file as result_file
