-- Write down how far a turn is delivered, but only for the run that holds the claim, and only of the
-- turn that is next: a Redis that was set back may know the run and not what it has delivered since.
-- Which turn a part that was sent belongs to is written down whoever asks.
-- what: 'part'   that many parts are sent, the next one is about to be
--       'again'  the next part is about to be sent, once more or after a wait
--       'plain'  this turn goes out without formatting from here on
--       'done'   the turn is delivered, or never will be
--       'later'  it was not sent and rests;  'doubt'  it may have been sent and rests
--       'failed' the run broke in a way that nobody foresaw: it counts as one that never ended, and rests
-- Returns 'written' | 'lost': the claim is | 'known': a status says that the part was sent ('again')
local conversation, outbox, due = KEYS[1], KEYS[2], KEYS[3]
-- The key of the part that was sent last.
local sent = KEYS[4]
-- 'part' is the one this is about: sent parts for 'part', else the next one.
local now, fence, number, part, what, user = clock(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
-- So long the claim stands, or the rest lasts.
local seconds = tonumber(ARGV[7])
-- So long it is remembered which turn the part that was sent belongs to; '0' where there is none.
local remembered_seconds = ARGV[8]
if remembered_seconds ~= '0' then
  redis.call('SET', sent, number, 'EX', remembered_seconds)
end
if redis.call('HGET', conversation, 'sender') ~= fence then
  return 'lost'
end
local delivered = tonumber(redis.call('HGET', conversation, 'delivered') or '0')
if what == 'done' and delivered == tonumber(number) then
  return 'written'
end
if delivered + 1 ~= tonumber(number) then
  return 'lost'
end
local until_ = written(now + seconds)
if what == 'done' then
  redis.call('HSET', conversation, 'delivered', number)
  redis.call('HDEL', conversation, 'parts', 'calling', 'calling_at', 'sender_turn', 'sender_runs', 'plain')
  redis.call('HDEL', outbox, number)
elseif what == 'part' then
  redis.call('HSET', conversation, 'parts', part, 'sender_until', until_,
             'calling', number .. ':' .. part, 'calling_at', written(now))
elseif what == 'again' then
  if redis.call('HGET', conversation, 'calling') ~= number .. ':' .. part then
    return 'known'
  end
  redis.call('HSET', conversation, 'sender_until', until_, 'calling_at', written(now))
elseif what == 'plain' then
  redis.call('HSET', conversation, 'plain', number)
else
  if what == 'later' then
    redis.call('HDEL', conversation, 'calling', 'calling_at')
  end
  if what ~= 'failed' then
    redis.call('HINCRBY', conversation, 'sender_runs', -1)
  end
  redis.call('HDEL', conversation, 'sender', 'sender_until')
  redis.call('HSET', conversation, 'rests_until', until_)
  redis.call('ZADD', due, until_, user)
end
return 'written'
