"""Chat: conversations over many turns, as a recipe whose turns are checkpoints of LangGraph.

`graph.py` is the recipe. It keeps a message in one of the `threads.py` in one of the `stores.py`;
`memory.py` says what a model reads of the conversation, and `routing.py` who replies. `messages.py`
has what goes in and out, and what is kept.
"""
