"""The way out: committed replies reach people.

In come wake-ups for a user; out go calls to the channel. Promises: a user's replies go out in their order,
each part once; a send whose outcome is in doubt is settled by its receipt before it is repeated. ``sender`` does it.
"""
