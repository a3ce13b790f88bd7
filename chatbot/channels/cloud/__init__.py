"""WhatsApp's Cloud API: ``payload`` reads what comes in, ``channel`` sends, ``errors`` knows Meta's codes."""
