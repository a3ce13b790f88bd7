"""``make demo``: ``run`` has web server, worker, sender and beat in one process, ``embedded`` their threads."""
