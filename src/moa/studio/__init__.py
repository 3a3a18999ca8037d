"""Studio: a page to look at what was decided, how surely and at what cost, and to correct it.

`data.py` says what the page shows, `book.py` makes it of the lines of a run, `sources.py` finds
those, `app.py` serves it, and `report.py` writes it into one file. The page itself, in `static/`,
computes no figure: all of them come from here.
"""
