-- A run ended without a turn: it is no attempt that was never heard of again, and the user's
-- next message may begin. Told twice (the first answer was lost), it counts once.
-- KEYS conversation
-- ARGV now, fence, whether that counts as a wait (1 or 0)
if redis.call('HGET', KEYS[1], 'run') ~= ARGV[2] then
  return 0
end
redis.call('HINCRBY', KEYS[1], 'attempts', -1)
redis.call('HINCRBY', KEYS[1], 'waits', ARGV[3])
redis.call('HDEL', KEYS[1], 'run', 'claim_until')
return 1
