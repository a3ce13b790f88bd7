-- Hold a place for longer; who has lost it goes on without it.
local holders = KEYS[1]
local now, holder, lease_seconds, kept_seconds = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4]
redis.call('ZADD', holders, 'XX', written(now + lease_seconds), holder)
redis.call('EXPIRE', holders, kept_seconds)
