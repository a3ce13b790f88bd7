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
"""
