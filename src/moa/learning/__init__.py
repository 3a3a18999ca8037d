"""Learning: a cascade that learns from the answers of its large model, with a guarantee."""
