"""A WhatsApp on your desk: a chat page, and a stand-in for the Graph API.

In come what people type in the page and what our sender asks the Graph API; out go
signed Cloud API webhooks over real HTTP, messages and statuses. It plays Meta, so it
knows nothing of the rest of this package. Everything lives in the memory of one process.

==============  =====================================================================
``graph``       what Meta answers: validation, error bodies
``instance``    the webhooks that Evolution API posts, where it is played too
``evolution``   what Evolution API answers
``faults``      scripted failures of the stand-in
``rates``       how fast it takes messages
``said``        what people type or send becomes a message
``files``       images and voice notes people sent
``state``       conversations, calls and events, bounded and safe between threads
``webhooks``    bodies as Meta writes them, signed, and the threads that post them
``routes``      the HTTP surface under ``/simulator``
==============  =====================================================================
"""
