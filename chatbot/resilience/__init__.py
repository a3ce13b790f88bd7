"""What bounds and repeats calls: ``retry``, ``breaker``, ``deadline``, ``repeater`` and ``later``. Knows no domain."""
