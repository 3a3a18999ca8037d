"""Mixing: asking several nodes at once, and making one answer of what they say."""
