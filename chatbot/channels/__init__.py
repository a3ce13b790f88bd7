"""Vendors: what comes in from each and how a reply leaves by it.

In come a vendor's bodies and our replies; out go our messages and the vendor's calls. Promises: nothing a body
holds raises anything but ``BadPayload``; a failed call becomes one of our errors. A channel is one folder here
and one line in ``config.CHANNELS``.

=================  ==============================================================================
``protocols``      what webhook and sender ask of a channel
``registry``       channels by name
``cloud``          WhatsApp's Cloud API
``evolution``      Evolution API
``null``           a developer's shell, which is told nothing
``formatting``     Markdown becomes WhatsApp's marks, in parts of a message's length
``choices``        ``[[A | B]]`` becomes buttons or a list
``json_fields``    reads JSON whose shape nobody promised
``answers``        what vendors' HTTP answers have in common
=================  ==============================================================================
"""
