"""Chat: conversations over many turns, stored as LangGraph checkpoints.

`graph.py` has the recipe, `threads.py` the conversations, and `stores.py` their storage.
`memory.py` selects what a model reads of a conversation, and `routing.py` the model that replies.
`messages.py` has the types.
"""
