-- Take one of so many places, or keep one's place in the line for it. The members of the keys are
-- holders → when the lease ends, line → number, seen → until when they count as waiting.
-- Returns 0 where the place is taken, else how many stand before the asker, itself included.
local holders, line, seen, last_number = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now, holder, places, lease_seconds = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
-- Who is not heard of for so long leaves the line; the keys are kept so long.
local seen_seconds, kept_seconds = tonumber(ARGV[5]), ARGV[6]
redis.call('ZREMRANGEBYSCORE', holders, '-inf', written(now))
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', seen, '-inf', written(now))) do
  redis.call('ZREM', line, gone)
  redis.call('ZREM', seen, gone)
end
if not redis.call('ZRANK', line, holder) then
  redis.call('ZADD', line, redis.call('INCR', last_number), holder)
end
local before = redis.call('ZRANK', line, holder)
local taken = before < places - redis.call('ZCARD', holders)
if taken then
  redis.call('ZADD', holders, written(now + lease_seconds), holder)
  redis.call('ZREM', line, holder)
  redis.call('ZREM', seen, holder)
else
  redis.call('ZADD', seen, written(now + seen_seconds), holder)
end
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, kept_seconds)
end
return taken and 0 or before + 1
