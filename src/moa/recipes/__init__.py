"""Recipes: ready graphs that write, solve and recommend."""
