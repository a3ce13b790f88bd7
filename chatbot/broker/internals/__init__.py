"""What relies on private or undocumented names of celery, kombu or py-amqp, and what that is worth.

Each is a debt: a release of the library may break it. The test says so. A gain is CPU time of a process that
published 5,000 messages to a RabbitMQ of its own, with and without in alternation; a whole message costs about
30 ms in all processes, and what gains less than 5 % of that for speed alone does not stay.

``connection.py``
    *Names*: ``kombu.Connection._establish_connection`` and ``_info``; the arguments of ``ensure_connection``.
    *Reason*: a broker that is away is asked every one to two seconds (celery/celery#4627: there is no setting that
    the worker's own loop obeys), one that refuses us is named, and each connection of a pool checks the name of
    its own host (celery/kombu#744; celery/kombu#1366 takes ``127.0.0.1`` for ``localhost``). No gain in speed.
    *Test*: ``tests/unit/broker/internals/test_connection.py``, ``tests/integration/test_tls.py``.
``frames.py``
    *Names*: ``amqp.method_framing.frame_writer``, and ``amqp.Connection(frame_writer=)``, which is not documented.
    *Reason*: messages and declarations that go out together are one write and one wake-up of the broker.
    *Gain*: none for a message alone (2.25 ms to route one with it, 2.30 ms without); for groups it was not measured.
    *Test*: ``tests/unit/broker/internals/test_frames.py``.
``task_events.py``
    *Names*: ``on_send_buffered`` and ``buffer_limit`` of Celery's ``EventDispatcher``, which are not documented.
    *Reason*: one message for all events of a quarter of a second, where Celery sends one each. Buffered events
    that a pool of threads loses are celery/celery#10434. *Gain*: not measured again.
    *Test*: ``tests/integration/test_task_events.py``.

Undocumented attributes that are used where they are needed, outside of this folder:

``broker/publisher.py``
    ``transport.sock`` of py-amqp's connection, for the time one read may take; ``channel.events``, to count
    confirms. *Test*: ``tests/unit/broker/test_publisher.py``, ``tests/integration/test_turn_costs.py``.
``broker/router.py``
    ``send_method`` and ``wait`` of py-amqp's channel: queues are declared in one round trip. *Test*:
    ``tests/integration/test_turn_costs.py``.
``web/slow_clients.py``
    The event loop of gunicorn's ``ThreadWorker``: a slow client takes no thread. *Test*:
    ``tests/integration/test_slow_clients.py``.
"""
