"""Learning: scorers fitted to labels, and a cascade that learns from its large model's answers."""
