"""The Celery app of this process, built from the environment: ``celery -A chatbot …`` looks here."""

from chatbot.app import from_environment

app = from_environment().celery
