-- Take one of so many places, or keep one's place in the line for it.
-- KEYS: holders (zset: who -> when the lease ends), line (zset: who -> number), seen (zset: who -> until when
-- they count as waiting), the number of the last who came. ARGV: time ('' for Redis' own), who, places, seconds
-- of a lease, seconds until who is not heard of leaves the line, seconds that the keys are kept.
-- Returns 0 where the place is taken, else how many stand before who, themselves included.
local now = clock(ARGV[1])
local who, places = ARGV[2], tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', written(now))
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', written(now))) do
  redis.call('ZREM', KEYS[2], gone)
  redis.call('ZREM', KEYS[3], gone)
end
if not redis.call('ZRANK', KEYS[2], who) then
  redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[4]), who)
end
local before = redis.call('ZRANK', KEYS[2], who)
local taken = 0
if before < places - redis.call('ZCARD', KEYS[1]) then
  redis.call('ZADD', KEYS[1], written(now + tonumber(ARGV[4])), who)
  redis.call('ZREM', KEYS[2], who)
  redis.call('ZREM', KEYS[3], who)
  taken = 1
else
  redis.call('ZADD', KEYS[3], written(now + tonumber(ARGV[5])), who)
end
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, ARGV[6])
end
return taken == 1 and 0 or before + 1
