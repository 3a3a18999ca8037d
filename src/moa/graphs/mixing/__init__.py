"""Mixing: asking several nodes at once, and combining their answers into one."""
