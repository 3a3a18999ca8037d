"""Routing: a router is fitted on recorded requests, and a graph asks the model that it chooses."""
