"""Inbox: the graph that answers an inbox, and the intents of one."""
