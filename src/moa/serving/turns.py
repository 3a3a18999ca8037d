"""Turns: what takes long of a request, one after the other, fairly by caller."""

from __future__ import annotations

from moa._turns import Turns

in_turn = Turns("moa-requests").take
"""Does work of many milliseconds in a thread; see `Turns.take`."""
