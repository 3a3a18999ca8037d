"""Core: the values that everything else is made of."""
