"""The language model, as CrewAI runs it.

In come a message and the past; out goes the text of a reply. Promises: a call ends in time, its size is
bounded, the prompt fits the model, and what a customer must not see is cleaned away. The only place that
imports crewai and openai.

=================  ==============================================================================
``crew``           the persona and the turn's call
``models``         the models there are, ``offline`` among them
``model_client``   one call to a model's server
``model_errors``   what its failures mean
``prompt``         what the model is shown
``window``         how much of it the model can read
``spoken``         what of an answer people read
``transcription``  speech becomes words
=================  ==============================================================================

What relies on private or undocumented names of CrewAI and OpenAI's client, and what that is worth. A gain is CPU time
of one call against a transport in memory; a whole message costs about 30 ms in all processes.

``models.py``: ``OpenAICompletion._client``
    CrewAI takes no client of ours by a public name: ``client_params`` go to its asynchronous client too, which
    refuses an ``http_client`` that is not. It ends calls in time, bounds answers and takes a place among the
    calls in flight. *Test*: ``tests/integration/test_model.py`` (deadlines, sizes, places).
``crew.py``: ``BaseLLM._token_usage``
    A copy of a model shares the counters of the first; each turn has its own. No gain in speed, and no test.
``crew.py``: ``EventListener().formatter.verbose``, ``crewai_core.printer.set_suppress_console_output``
    Public, but not documented: what people wrote is not printed. *Test*: ``tests/integration/test_agent.py``, "prints
    nothing".
``models.py``: ``crewai_core.user_data`` and ``lock_store``
    Public, but not documented: no first run that collects what is said (crewAIInc/crewAI#3789). *Test*: as above.
``model_client.py``: ``client.chat.completions`` replaced by a subclass of ``openai.resources.chat.Completions``
    Public names. OpenAI's client walks every message through all types it could be of (openai/openai-python#3616).
    *Gain*: 5 ms with five turns of the past, 15 ms with twenty (17.1 against 1.8 ms), half of a whole message.
    *Test*: ``tests/integration/test_agent.py``, "not walked through type by type".
"""
