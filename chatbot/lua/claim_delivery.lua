-- Take the next undelivered turn of a user. One sender at a time: another one's claim
-- stands until it is released, runs out, or its own delivery comes back (same holder).
-- The part about to be sent is written down with the time; found again by a later claim,
-- it is in doubt: it may have reached the provider.
-- KEYS conversation, outbox, due
-- ARGV holder, now, claim lasts until, user
-- Returns {'nothing'} | {'busy'}
--      | {'claimed', fence, number, turn as JSON or '', parts already sent, in doubt since or ''}
local delivered = tonumber(redis.call('HGET', KEYS[1], 'delivered') or '0')
local turns = tonumber(redis.call('HGET', KEYS[1], 'turns') or '0')
local holder = redis.call('HGET', KEYS[1], 'sender')
local held_until = tonumber(redis.call('HGET', KEYS[1], 'sender_until') or '0')
if holder and holder ~= ARGV[1] and held_until > tonumber(ARGV[2]) then
  return {'busy'}
end
if delivered >= turns then
  redis.call('HDEL', KEYS[1], 'sender', 'sender_until')
  redis.call('ZREM', KEYS[3], ARGV[4])
  return {'nothing'}
end
local fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
local number = delivered + 1
local parts = tonumber(redis.call('HGET', KEYS[1], 'parts') or '0')
local part = number .. ':' .. parts
local doubt = ''
if redis.call('HGET', KEYS[1], 'calling') == part then
  doubt = redis.call('HGET', KEYS[1], 'calling_at')
else
  redis.call('HSET', KEYS[1], 'calling', part, 'calling_at', ARGV[2])
end
redis.call('HSET', KEYS[1], 'sender', ARGV[1], 'sender_until', ARGV[3])
return {'claimed', fence, number, redis.call('HGET', KEYS[2], tostring(number)) or '', parts, doubt}
