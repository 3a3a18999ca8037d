"""Building: a graph is declared, checked, planned and run."""
