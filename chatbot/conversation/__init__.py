"""A turn: one message is answered.

In comes a message with its user's past; out goes a reply, committed to the store together with a wake-up for
the sender. Promises: a message is answered once, in order, and its author hears back also if the model fails.

=================  ==============================================================================
``turn``           claim, past, agent, commit
``media``          voice notes and images become text
``quarantine``     what may have ended its process is answered in one of its own
=================  ==============================================================================
"""
