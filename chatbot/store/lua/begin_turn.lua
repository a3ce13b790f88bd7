-- Claim the next turn of a user. While a claim stands, whoever else asks waits: it is renewed for
-- as long as its run lives, and stands no longer than that. Only the same message may take the
-- place of a run that is known to be gone: the next one would overtake what comes back.
-- No turn begins under a name that leads to another one, nor before the two names of one
-- author lead to one conversation.
-- KEYS conversation, history, turn of this message, sessions, conversation of the author's other name,
--      names that lead here
-- ARGV now, message id, history length, user, seconds of the claim, fence (the same run may ask again),
--      when the message was written from that number (0: not known, or it came in under another
--      name), whether there is another name (1 or 0), retention s, fence of a run that is gone ('': none)
-- Returns {'answered', turn} | {'moved', user, phone, bsuid} | {'apart'} | {'wait', fence of who holds it}
--      | {'begun', turns committed, attempts at this message, times given back, history, now}
local now = clock(ARGV[1])
local answered = redis.call('GET', KEYS[3])
redis.call('ZADD', KEYS[4], written(now), ARGV[4])
if answered then
  return {'answered', answered}
end
local moved = redis.call('HMGET', KEYS[1], 'moved', 'moved_phone', 'moved_bsuid', 'moved_at')
if moved[1] and (not moved[4] or tonumber(ARGV[7]) <= tonumber(moved[4])) then
  return {'moved', moved[1], moved[2], moved[3]}
end
if ARGV[8] == '1' then
  if redis.call('HGET', KEYS[5], 'moved') ~= ARGV[4] then
    return {'apart'}
  end
  redis.call('EXPIRE', KEYS[5], ARGV[9])
  redis.call('EXPIRE', KEYS[6], ARGV[9])
end
local current = redis.call('HGET', KEYS[1], 'message')
local run = redis.call('HGET', KEYS[1], 'run')
local claimed = tonumber(redis.call('HGET', KEYS[1], 'claim_until') or '0') > now
if claimed and run ~= ARGV[6] and not (current == ARGV[2] and run == ARGV[10]) then
  return {'wait', run or ''}
end
if current ~= ARGV[2] then
  redis.call('HSET', KEYS[1], 'message', ARGV[2], 'attempts', 0, 'waits', 0)
end
if run ~= ARGV[6] then
  redis.call('HSET', KEYS[1], 'run', ARGV[6])
  redis.call('HINCRBY', KEYS[1], 'attempts', 1)
end
redis.call('HSET', KEYS[1], 'claim_until', written(now + tonumber(ARGV[5])))
redis.call('EXPIRE', KEYS[1], ARGV[9])
local attempts = tonumber(redis.call('HGET', KEYS[1], 'attempts'))
local turns = tonumber(redis.call('HGET', KEYS[1], 'turns') or '0')
local waits = tonumber(redis.call('HGET', KEYS[1], 'waits') or '0')
local history = {}
if tonumber(ARGV[3]) > 0 then
  history = redis.call('LRANGE', KEYS[2], -tonumber(ARGV[3]), -1)
end
return {'begun', turns, attempts, waits, history, written(now)}
