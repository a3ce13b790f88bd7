"""chatbot: conversations on WhatsApp through an LLM agent, one queue per user.

The way of a message, in the order of the files:

1. ``webhook``        verify the signature, parse, publish, answer 200 (``slow_clients``, ``incoming``: whole
                      requests only; ``notices``: what is told beside messages)
2. ``router``         the message goes to ``chat.<user>``; asks for a subscriber (``publishing``: confirmed, by a
                      deadline; ``group_commit``: for several threads at once; ``shards``: on several brokers)
3. ``subscriptions``  a worker's bootstep consumes users' queues on demand (``steps``: in slices)
4. ``conversation``   one turn: claim, history, agent, commit, reply (``media``, ``agent``, ``llm``; ``quarantine``:
                      in a process of its own)
5. ``delivery``       replies in order, each once, through a channel (``channels/``; every call out by ``http``, over
                      ``transport``; ``later``: what is put off)
6. ``sessions``       idle ones are closed, orphaned ones are rescued (``beat`` asks for it)

Around a model: ``prompt`` is what it is shown, ``window`` how much of that fits, ``slots`` how many
calls are in flight, ``model_client`` the call, ``model_errors`` what a failure means, ``breaker`` what
spares it while it fails, and ``spoken`` what of its answer people read.

``store`` keeps conversations in Redis, over ``redis_client``; ``moves`` makes one of two where they
are one person's. ``presence`` says which processes and runs live: ``heartbeat`` tells it, and
``repeater`` renews what they claimed. ``topology`` names everything on the broker; ``messages``,
``contacts`` and ``errors`` are the vocabulary, ``tasks`` what Celery calls, ``task_events`` what Flower
sees. ``connection`` is every connection to the broker, ``tls`` what it and Redis' need to know,
``library_logs`` what Celery may log. Only ``config`` reads the environment, only ``app`` builds.
"""
