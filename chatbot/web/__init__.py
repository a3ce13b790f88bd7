"""The way in: HTTP requests of a vendor become messages on the broker.

In come webhooks; out go published messages, statuses and notices. Promise: 200 is answered only for what the
broker has confirmed. Needs the broker and nothing else. ``serving`` alone may import ``app``.

================  ===============================================================================
``webhook``       the routes: verify, parse, name, publish
``incoming``      what the head of a request alone shows to be refused
``slow_clients``  gunicorn's worker: threads get whole requests only
``serving``       gunicorn's settings, and the application it serves
================  ===============================================================================
"""
