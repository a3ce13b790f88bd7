"""What an operator reads: ``logging`` sets the one format of all lines, ``library_logs`` shortens Celery's."""
