"""`python -m moa`: the command line."""

from moa.cli import main

main()
