"""LangGraph: graphs that run, are stored and drawn by it."""
