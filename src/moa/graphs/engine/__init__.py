"""Engine: a graph is declared, checked, planned, run, kept and drawn."""
