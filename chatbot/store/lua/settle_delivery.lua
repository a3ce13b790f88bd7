-- Write down how far a turn is delivered, but only for the run that holds the claim, and only of the
-- turn that is next: a Redis that was set back may know the run and not what it has delivered since.
-- Which turn a part that was sent belongs to is written down whoever asks.
-- KEYS conversation, outbox, due, the part that was sent last
-- ARGV now, fence, number, part (the one this is about: sent parts for 'part', else the next one), what,
--      user, seconds (that the claim stands, or of the rest), how long to remember which turn the part
--      that was sent belongs to (0: there is none)
-- what: 'part'   that many parts are sent, the next one is about to be
--       'again'  the next part is about to be sent, once more or after a wait
--       'plain'  this turn goes out without formatting from here on
--       'done'   the turn is delivered, or never will be
--       'later'  it was not sent and rests;  'doubt'  it may have been sent and rests
--       'failed' the run broke in a way that nobody foresaw: it counts as one that never ended, and rests
-- Returns 1 when written, 0 when the claim is lost, 2 when a status says that the part was sent ('again')
local now = clock(ARGV[1])
if ARGV[8] ~= '0' then
  redis.call('SET', KEYS[4], ARGV[3], 'EX', ARGV[8])
end
if redis.call('HGET', KEYS[1], 'sender') ~= ARGV[2] then
  return 0
end
local delivered = tonumber(redis.call('HGET', KEYS[1], 'delivered') or '0')
if ARGV[5] == 'done' and delivered == tonumber(ARGV[3]) then
  return 1
end
if delivered + 1 ~= tonumber(ARGV[3]) then
  return 0
end
local until_ = written(now + tonumber(ARGV[7]))
if ARGV[5] == 'done' then
  redis.call('HSET', KEYS[1], 'delivered', ARGV[3])
  redis.call('HDEL', KEYS[1], 'parts', 'calling', 'calling_at', 'sender_turn', 'sender_runs', 'plain')
  redis.call('HDEL', KEYS[2], ARGV[3])
elseif ARGV[5] == 'part' then
  redis.call('HSET', KEYS[1], 'parts', ARGV[4], 'sender_until', until_,
             'calling', ARGV[3] .. ':' .. ARGV[4], 'calling_at', written(now))
elseif ARGV[5] == 'again' then
  if redis.call('HGET', KEYS[1], 'calling') ~= ARGV[3] .. ':' .. ARGV[4] then
    return 2
  end
  redis.call('HSET', KEYS[1], 'sender_until', until_, 'calling_at', written(now))
elseif ARGV[5] == 'plain' then
  redis.call('HSET', KEYS[1], 'plain', ARGV[3])
else
  if ARGV[5] == 'later' then
    redis.call('HDEL', KEYS[1], 'calling', 'calling_at')
  end
  if ARGV[5] ~= 'failed' then
    redis.call('HINCRBY', KEYS[1], 'sender_runs', -1)
  end
  redis.call('HDEL', KEYS[1], 'sender', 'sender_until')
  redis.call('HSET', KEYS[1], 'rests_until', until_)
  redis.call('ZADD', KEYS[3], until_, ARGV[6])
end
return 1
