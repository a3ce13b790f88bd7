"""For operators: what is wrong, and how to put it right."""
