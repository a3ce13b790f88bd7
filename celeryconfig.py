"""Celery's settings: data only. Addresses and limits come from ``CHATBOT_`` variables."""

from chatbot.broker.topology import HOUSEKEEPING, HOUSEKEEPING_QUEUE, OPEN_QUEUE, SEND_QUEUE

# Every queue is known beforehand or opened by the router; a typo creates none.
task_queues = (OPEN_QUEUE, HOUSEKEEPING_QUEUE, SEND_QUEUE)
task_create_missing_queues = False
task_default_queue = HOUSEKEEPING
task_default_exchange = "chat"
task_default_exchange_type = "topic"
task_default_routing_key = HOUSEKEEPING

# A message is used up only when its task is done. An error nobody foresaw sends it to
# the dead letters instead of acknowledging it away.
task_acks_late = True
task_reject_on_worker_lost = True
task_acks_on_failure = False
task_acks_on_timeout = False
worker_prefetch_multiplier = 1
task_ignore_result = True

# Per-consumer prefetch (our queues), confirmed publishing, and no chatter between workers.
worker_detect_quorum_queues = False
worker_cancel_long_running_tasks_on_connection_loss = False
worker_enable_prefetch_count_reduction = False
broker_channel_error_retry = True
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_pool_limit = 64
# A connection that went silent (a cut cable) is given up after two of these, in seconds.
broker_heartbeat = 20

# JSON only: what arrives on a queue can never run code.
task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]

# What Flower sees: user, message id and length. Texts never leave the message body.
worker_send_task_events = True
task_send_sent_event = False
worker_hijack_root_logger = False
enable_utc = True
timezone = "UTC"

# The schedule is the same at each start: nothing of it is kept in a file.
beat_scheduler = "chatbot.sessions.beat:Scheduler"
