-- A run ended without a turn: it is no attempt that was never heard of again, and the user's
-- next message may begin. Told twice (the first answer was lost), it counts once.
local conversation = KEYS[1]
-- 'waits': whether that counts as a wait (1 or 0).
local fence, waits = ARGV[2], ARGV[3]
if redis.call('HGET', conversation, 'run') ~= fence then
  return 0
end
redis.call('HINCRBY', conversation, 'attempts', -1)
redis.call('HINCRBY', conversation, 'waits', waits)
redis.call('HDEL', conversation, 'run', 'claim_until')
return 1
