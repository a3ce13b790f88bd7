"""Redis: conversations, outboxes, claims and what else outlives a process.

In come turns and outcomes; out go what is known. Promises: what belongs together changes in one script, and
times that processes compare are Redis' own. Never imports ``broker``.

=================  ==============================================================================
``keys``           every key: its name, type, time to live, what it holds and whose it is
``client``         the connection, its errors, the scripts with one clock
``turns``          conversations and outboxes
``merge``          two names that are one person's become one conversation
``presence``       which processes and which of their runs live
``slots``          how many calls to a model are in flight
``notices``        what providers told beside messages
``lua``            the scripts
=================  ==============================================================================
"""
