-- Take the next undelivered turn of a user. One run of a sender at a time: its claim stands
-- for as long as it is renewed, and is taken over at once only from a run that is known to be gone.
-- An outbox that rests is left alone until its time, whoever asks. Of those that find it claimed, one
-- is told to look again later: the run that has it may end without a word.
-- The part about to be sent is written down with the time; found again by a later claim,
-- it is in doubt: it may have reached the provider. Runs that claimed this turn and never
-- settled anything are counted.
-- KEYS conversation, outbox, due
-- ARGV now, fence, seconds of the claim, user, fence of a run that is gone ('': none),
--      seconds for which one who looks again is enough, seconds that a rest may be cut short by
-- Returns {'nothing'} | {'rests', for so many seconds} | {'busy', fence of who holds it, whether to look again (1 or 0)}
--      | {'claimed', number, turn as JSON or '', parts already sent, in doubt since or '',
--         runs, whether it goes out plainly (1 or 0), now}
local now = clock(ARGV[1])
local delivered = tonumber(redis.call('HGET', KEYS[1], 'delivered') or '0')
local turns = tonumber(redis.call('HGET', KEYS[1], 'turns') or '0')
local holder = redis.call('HGET', KEYS[1], 'sender')
local claimed = tonumber(redis.call('HGET', KEYS[1], 'sender_until') or '0') > now
if holder and claimed and holder ~= ARGV[2] and holder ~= ARGV[5] then
  if tonumber(redis.call('HGET', KEYS[1], 'looked_at') or '0') > now then
    return {'busy', holder, 0}
  end
  redis.call('HSET', KEYS[1], 'looked_at', written(now + tonumber(ARGV[6])))
  return {'busy', holder, 1}
end
if delivered >= turns then
  redis.call('HDEL', KEYS[1], 'sender', 'sender_until', 'sender_turn', 'sender_runs', 'plain', 'rests_until', 'looked_at')
  redis.call('ZREM', KEYS[3], ARGV[4])
  return {'nothing'}
end
local rests = tonumber(redis.call('HGET', KEYS[1], 'rests_until') or '0') - now
if rests > tonumber(ARGV[7]) then
  return {'rests', tostring(rests)}
end
redis.call('HDEL', KEYS[1], 'rests_until', 'looked_at')
local number = delivered + 1
local parts = tonumber(redis.call('HGET', KEYS[1], 'parts') or '0')
local part = number .. ':' .. parts
local doubt = ''
if redis.call('HGET', KEYS[1], 'calling') == part then
  doubt = redis.call('HGET', KEYS[1], 'calling_at')
else
  redis.call('HSET', KEYS[1], 'calling', part, 'calling_at', written(now))
end
if redis.call('HGET', KEYS[1], 'sender_turn') ~= tostring(number) then
  redis.call('HSET', KEYS[1], 'sender_turn', number, 'sender_runs', 0)
  holder = false
end
if holder ~= ARGV[2] then
  redis.call('HINCRBY', KEYS[1], 'sender_runs', 1)
end
redis.call('HSET', KEYS[1], 'sender', ARGV[2], 'sender_until', written(now + tonumber(ARGV[3])))
return {'claimed', number, redis.call('HGET', KEYS[2], tostring(number)) or '', parts, doubt,
        tonumber(redis.call('HGET', KEYS[1], 'sender_runs')),
        redis.call('HGET', KEYS[1], 'plain') == tostring(number) and 1 or 0, written(now)}
