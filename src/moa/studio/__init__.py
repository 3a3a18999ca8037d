"""Studio: a page that shows decisions with their confidence and cost, and lets people correct them.

`data.py` defines the page's data, `book.py` makes it from the lines of a run, `sources.py` finds
the lines, `app.py` serves the page, and `report.py` writes it to one file. The page itself, in
`static/`, computes no figures.
"""
