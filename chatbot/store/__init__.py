"""Redis: conversations, outboxes, claims and what else outlives a process.

In come turns and outcomes; out go what is known. Promises: what belongs together changes in one script, and
times that processes compare are Redis' own. Never imports ``broker``.

=================  ==============================================================================
``keys``           every key: its name, type, time to live, what it holds and whose it is
``client``         the connection, its errors, the scripts with one clock
``store``          all of the five below over one client: what the stages use
``turns``          conversations: who said what, whose turn it is
``outbox``         replies that wait, and how far each got
``pacing``         how fast a channel may be used
``sessions``       which users are being served
``marks``          what is said or done once, and how often things happened
``merge``          two names that are one person's become one conversation
``presence``       which processes and which of their runs live
``slots``          how many calls to a model are in flight
``notices``        what providers told beside messages
``lua``            the scripts
=================  ==============================================================================
"""
