-- Write down how far a turn is delivered, but only for the newest claim.
-- KEYS conversation, outbox, due, the part that was sent last
-- ARGV fence, number, parts sent, what, user, until (end of the claim, or of the rest), now,
--      how long to remember which turn that part belongs to (0: there is none)
-- what: 'part'   that many parts are sent, the next one is about to be
--       'again'  the part in doubt is about to be sent once more
--       'done'   the turn is delivered, or never will be
--       'later'  it was not sent and rests;  'doubt'  it may have been sent and rests
-- Returns 1 when written, 0 when a newer claim took over
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then
  return 0
end
if ARGV[8] ~= '0' then
  redis.call('SET', KEYS[4], ARGV[2], 'EX', ARGV[8])
end
if ARGV[4] == 'done' then
  redis.call('HSET', KEYS[1], 'delivered', ARGV[2])
  redis.call('HDEL', KEYS[1], 'parts', 'calling', 'calling_at')
  redis.call('HDEL', KEYS[2], ARGV[2])
elseif ARGV[4] == 'part' then
  redis.call('HSET', KEYS[1], 'parts', ARGV[3], 'sender_until', ARGV[6],
             'calling', ARGV[2] .. ':' .. ARGV[3], 'calling_at', ARGV[7])
elseif ARGV[4] == 'again' then
  redis.call('HSET', KEYS[1], 'sender_until', ARGV[6], 'calling_at', ARGV[7])
else
  if ARGV[4] == 'later' then
    redis.call('HDEL', KEYS[1], 'calling', 'calling_at')
  end
  redis.call('HDEL', KEYS[1], 'sender', 'sender_until')
  redis.call('ZADD', KEYS[3], ARGV[6], ARGV[5])
end
return 1
