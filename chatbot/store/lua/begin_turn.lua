-- Claim the next turn of a user. While a claim stands, whoever else asks waits: it is renewed for
-- as long as its run lives, and stands no longer than that. Only the same message may take the
-- place of a run that is known to be gone: the next one would overtake what comes back.
-- No turn begins under a name that leads to another one, nor before the two names of one
-- author lead to one conversation.
-- Returns {'answered', turn} | {'moved', user, phone, bsuid} | {'apart'} | {'wait', fence of who holds it}
--      | {'begun', turns committed, attempts at this message, times given back, history, now}
local conversation, history, turn, sessions = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
-- The conversation of the author's other name, and the names that lead here.
local other, names = KEYS[5], KEYS[6]
local now, message, history_turns, user = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4]
-- The same run may ask again, by its fence.
local claim_seconds, fence = tonumber(ARGV[5]), ARGV[6]
-- When it was written from that number: 0 where that is not known, or it came in under another name.
local written_at = tonumber(ARGV[7])
-- 'gone': the fence of a run that is gone, '' where there is none.
local has_other_name, retention, gone = ARGV[8] == '1', ARGV[9], ARGV[10]
local answered = redis.call('GET', turn)
redis.call('ZADD', sessions, written(now), user)
if answered then
  return {'answered', answered}
end
local moved = redis.call('HMGET', conversation, 'moved', 'moved_phone', 'moved_bsuid', 'moved_at')
if moved[1] and (not moved[4] or written_at <= tonumber(moved[4])) then
  return {'moved', moved[1], moved[2], moved[3]}
end
if has_other_name then
  if redis.call('HGET', other, 'moved') ~= user then
    return {'apart'}
  end
  redis.call('EXPIRE', other, retention)
  redis.call('EXPIRE', names, retention)
end
local current = redis.call('HGET', conversation, 'message')
local holder = redis.call('HGET', conversation, 'run')
local claimed = tonumber(redis.call('HGET', conversation, 'claim_until') or '0') > now
if claimed and holder ~= fence and not (current == message and holder == gone) then
  return {'wait', holder or ''}
end
if current ~= message then
  redis.call('HSET', conversation, 'message', message, 'attempts', 0, 'waits', 0)
end
if holder ~= fence then
  redis.call('HSET', conversation, 'run', fence)
  redis.call('HINCRBY', conversation, 'attempts', 1)
end
redis.call('HSET', conversation, 'claim_until', written(now + claim_seconds))
redis.call('EXPIRE', conversation, retention)
local attempts = tonumber(redis.call('HGET', conversation, 'attempts'))
local turns = tonumber(redis.call('HGET', conversation, 'turns') or '0')
local waits = tonumber(redis.call('HGET', conversation, 'waits') or '0')
local past = {}
if history_turns > 0 then
  past = redis.call('LRANGE', history, -history_turns, -1)
end
return {'begun', turns, attempts, waits, past, written(now)}
