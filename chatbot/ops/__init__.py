"""For operators: what is wrong, and how to put it right.

In comes the chatbot of this process; out go findings, each with what to do, and dead letters. Promise: a letter is
replayed or dropped only where somebody asks for that.

==================  =============================================================================
``doctor``          every check, in one list
``broker_checks``   of RabbitMQ: its queues and how full they are
``redis_checks``    of Redis: its memory, and whether it keeps what it is told
``process_checks``  which processes live, and whether their clocks agree
``finding``         what a check says
``dead_letters``    list, show, replay and drop
==================  =============================================================================
"""
