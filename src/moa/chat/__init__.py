"""Chat: conversations over many turns, kept in checkpoints, shared by two models."""
