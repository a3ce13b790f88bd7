-- Write down how far a turn is delivered, but only for the newest claim.
-- KEYS conversation, outbox, due
-- ARGV fence, number, parts sent, what: 'part' | 'done' | 'later', user, until (claim of a part, rest of an outbox)
-- Returns 1 when written, 0 when a newer claim took over
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then
  return 0
end
if ARGV[4] == 'done' then
  redis.call('HSET', KEYS[1], 'delivered', ARGV[2])
  redis.call('HDEL', KEYS[1], 'parts')
  redis.call('HDEL', KEYS[2], ARGV[2])
elseif ARGV[4] == 'part' then
  redis.call('HSET', KEYS[1], 'parts', ARGV[3], 'sender_until', ARGV[6])
else
  redis.call('HDEL', KEYS[1], 'sender', 'sender_until')
  redis.call('ZADD', KEYS[3], ARGV[6], ARGV[5])
end
return 1
