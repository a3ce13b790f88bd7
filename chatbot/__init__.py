"""chatbot: conversations on WhatsApp through an LLM agent, one queue per user.

The way of a message, folder by folder:

1. ``web``            the webhook verifies, parses, publishes, and answers 200
2. ``broker``         the message goes to ``chat.<user>``, and somebody is asked to serve that queue
3. ``sessions``       a worker consumes users' queues on demand; idle ones are closed, orphaned ones rescued
4. ``conversation``   one turn: claim, past, agent, commit
5. ``agent``          CrewAI and the model
6. ``delivery``       replies in order, each once, through a channel

Beside it: ``store`` (Redis), ``channels`` (a vendor's formats and calls), ``resilience`` (retry, breaker,
deadline), ``observability`` (logs), ``ops`` (doctor, dead letters), ``simulator`` (a WhatsApp on your desk,
which knows nothing of the rest) and ``demo``.

The vocabulary: ``messages`` (what travels), ``identity`` (who is a user), ``errors``, ``texts`` (what the
system itself says), ``config`` (the only reader of the environment), ``tls``, ``http`` (every call out).

``tasks`` holds each Celery task, ``app`` builds everything, ``celery`` is the app that ``celery -A chatbot``
finds, ``cli`` the commands, ``isolated_turn`` a process for a turn that may end its own. ``extras`` says
what is not installed; ``flower_command`` is what ``celery flower`` finds.

Imports point down: cli, ops, demo > app > tasks > web, sessions, conversation, delivery > store, broker,
channels, agent > vocabulary. ``pyproject.toml`` has the contracts.
"""
