-- Take the next undelivered turn of a user. One run of a sender at a time: its claim stands
-- for as long as it is renewed, and is taken over at once only from a run that is known to be gone.
-- An outbox that rests is left alone until its time, whoever asks. Of those that find it claimed, one
-- is told to look again later: the run that has it may end without a word.
-- The part about to be sent is written down with the time; found again by a later claim,
-- it is in doubt: it may have reached the provider. Runs that claimed this turn and never
-- settled anything are counted.
-- Returns {'nothing'} | {'rests', for so many seconds} | {'busy', fence of who holds it, whether to look again (1 or 0)}
--      | {'claimed', number, turn as JSON or nil, parts already sent, in doubt since or nil,
--         runs, whether it goes out plainly (1 or 0), now}
local conversation, outbox, due = KEYS[1], KEYS[2], KEYS[3]
-- 'gone': the fence of a run that is gone, '' where there is none.
local now, fence, claim_seconds, user, gone = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
-- For so long one who looks again is enough; a rest may be cut short by so much.
local look_seconds, early_seconds = tonumber(ARGV[6]), tonumber(ARGV[7])
local delivered = tonumber(redis.call('HGET', conversation, 'delivered') or '0')
local turns = tonumber(redis.call('HGET', conversation, 'turns') or '0')
local holder = redis.call('HGET', conversation, 'sender')
local claimed = tonumber(redis.call('HGET', conversation, 'sender_until') or '0') > now
if holder and claimed and holder ~= fence and holder ~= gone then
  if tonumber(redis.call('HGET', conversation, 'looked_at') or '0') > now then
    return {'busy', holder, 0}
  end
  redis.call('HSET', conversation, 'looked_at', written(now + look_seconds))
  return {'busy', holder, 1}
end
if delivered >= turns then
  redis.call('HDEL', conversation,
             'sender', 'sender_until', 'sender_turn', 'sender_runs', 'plain', 'rests_until', 'looked_at')
  redis.call('ZREM', due, user)
  return {'nothing'}
end
local rests = tonumber(redis.call('HGET', conversation, 'rests_until') or '0') - now
if rests > early_seconds then
  return {'rests', tostring(rests)}
end
redis.call('HDEL', conversation, 'rests_until', 'looked_at')
local number = delivered + 1
local parts = tonumber(redis.call('HGET', conversation, 'parts') or '0')
local part = number .. ':' .. parts
local doubt = false
if redis.call('HGET', conversation, 'calling') == part then
  doubt = redis.call('HGET', conversation, 'calling_at')
else
  redis.call('HSET', conversation, 'calling', part, 'calling_at', written(now))
end
if redis.call('HGET', conversation, 'sender_turn') ~= tostring(number) then
  redis.call('HSET', conversation, 'sender_turn', number, 'sender_runs', 0)
  holder = false
end
if holder ~= fence then
  redis.call('HINCRBY', conversation, 'sender_runs', 1)
end
redis.call('HSET', conversation, 'sender', fence, 'sender_until', written(now + claim_seconds))
return {'claimed', number, redis.call('HGET', outbox, tostring(number)), parts, doubt,
        tonumber(redis.call('HGET', conversation, 'sender_runs')),
        redis.call('HGET', conversation, 'plain') == tostring(number) and 1 or 0, written(now)}
