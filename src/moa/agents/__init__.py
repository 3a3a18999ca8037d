"""Agents: one prompt, one endpoint, one output type; each in its own file.

`Agent`, in `agent.py`, writes, and `Decider`, in `deciding.py`, decides. Most others derive from
`Agent` or `DecidingAgent`. They share `base.py` (nodes with limits, and `@ready`), `prompts.py`,
`tools.py`, `tool_calls.py`, and, for texts, `splitting.py` and `language.py`.
"""
