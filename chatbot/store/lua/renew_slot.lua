-- Hold a place for longer; who has lost it goes on without it.
-- KEYS: holders. ARGV: time ('' for Redis' own), who, seconds of a lease, seconds that the key is kept.
redis.call('ZADD', KEYS[1], 'XX', written(clock(ARGV[1]) + tonumber(ARGV[3])), ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
