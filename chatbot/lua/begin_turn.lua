-- Claim the next turn of a user: every earlier, unfinished run loses its right to commit.
-- While another message's turn is under way, this one waits: a broker that hands a queue
-- from one consumer to the next may deliver the next message beside an unfinished one.
-- No turn begins under a name that leads to another one, nor before the two names of one
-- author lead to one conversation.
-- KEYS conversation, history, turn of this message, sessions, conversation of the author's other name,
--      names that lead here
-- ARGV message id, history length, user, now, claim lasts until, run (the same one may ask again),
--      when the message was written from that number (0: not known, or it came in under another
--      name), whether there is another name (1 or 0), retention s
-- Returns {'answered', turn} | {'moved', user, phone, bsuid} | {'apart'} | {'wait'}
--      | {'begun', claim, turns committed, attempts at this message, times given back, history}
local answered = redis.call('GET', KEYS[3])
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[3])
if answered then
  return {'answered', answered}
end
local moved = redis.call('HMGET', KEYS[1], 'moved', 'moved_phone', 'moved_bsuid', 'moved_at')
if moved[1] and (not moved[4] or tonumber(ARGV[7]) <= tonumber(moved[4])) then
  return {'moved', moved[1], moved[2], moved[3]}
end
if ARGV[8] == '1' then
  if redis.call('HGET', KEYS[5], 'moved') ~= ARGV[3] then
    return {'apart'}
  end
  redis.call('EXPIRE', KEYS[5], ARGV[9])
  redis.call('EXPIRE', KEYS[6], ARGV[9])
end
local current = redis.call('HGET', KEYS[1], 'message')
if current ~= ARGV[1] then
  if current and tonumber(redis.call('HGET', KEYS[1], 'claim_until') or '0') > tonumber(ARGV[4]) then
    return {'wait'}
  end
  redis.call('HSET', KEYS[1], 'message', ARGV[1], 'attempts', 0, 'waits', 0)
end
redis.call('HSET', KEYS[1], 'claim_until', ARGV[5])
if redis.call('HGET', KEYS[1], 'run') ~= ARGV[6] then
  redis.call('HSET', KEYS[1], 'run', ARGV[6])
  redis.call('HINCRBY', KEYS[1], 'claim', 1)
  redis.call('HINCRBY', KEYS[1], 'attempts', 1)
end
local claim = tonumber(redis.call('HGET', KEYS[1], 'claim'))
local attempts = tonumber(redis.call('HGET', KEYS[1], 'attempts'))
local turns = tonumber(redis.call('HGET', KEYS[1], 'turns') or '0')
local waits = tonumber(redis.call('HGET', KEYS[1], 'waits') or '0')
local history = {}
if tonumber(ARGV[2]) > 0 then
  history = redis.call('LRANGE', KEYS[2], -tonumber(ARGV[2]), -1)
end
return {'begun', claim, turns, attempts, waits, history}
