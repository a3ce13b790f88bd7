"""Where people write to us: each module parses, verifies and sends for one vendor."""
