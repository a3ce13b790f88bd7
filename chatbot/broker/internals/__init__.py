"""What relies on private names of celery, kombu or py-amqp, each with its reason at the top of its file."""
