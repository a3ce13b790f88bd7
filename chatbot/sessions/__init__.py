"""A worker serves users' queues on demand.

In come requests for a subscriber, from ``chat.open``; out go deliveries to the pool's threads, one at a time
for each user. Promises: a user has one subscriber at most, a session that is closed loses nothing, and one
whose worker is gone is opened elsewhere.

=================  ==============================================================================
``bootstep``       Celery's glue: opens, serves and closes sessions on the worker's event loop
``steps``          work of that loop, in slices
``housekeeping``   closes what is idle, rescues what lost its worker; beat asks for it
``beat``           beat as we run it
``heartbeat``      tells the others that this process lives
=================  ==============================================================================
"""
