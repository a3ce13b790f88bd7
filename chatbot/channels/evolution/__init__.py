"""Evolution API v2: ``payload`` reads what comes in, ``channel`` sends."""
