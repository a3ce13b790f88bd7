"""RabbitMQ: names, publishing, and every user's queue.

In come messages, statuses and notices; out they go to their queues. Promises: a publish is confirmed or
raises by a deadline; a message that was confirmed has a queue and somebody who was asked to serve it.

================  ===============================================================================
``topology``      the name and the shape of everything on the broker
``router``        the public operations: route a message, wake a sender, bury what failed
``sharding``      the same on several brokers
``publisher``     one confirmed publish, by a deadline
``call``          the message that calls a task
``group_commit``  what several threads publish at the same time goes out together
``fill_level``    says when the dead letters fill up
``internals``     whatever touches a private name of celery, kombu or py-amqp
================  ===============================================================================
"""
