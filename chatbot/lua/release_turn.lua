-- A run ended, or did not really begin: it is no attempt that was never heard of again.
-- Told twice (the first answer was lost), it counts once: the run is gone by then.
-- KEYS conversation
-- ARGV claim, 1 where the message itself goes back and the user's next one may begin
if redis.call('HGET', KEYS[1], 'claim') ~= ARGV[1] or redis.call('HEXISTS', KEYS[1], 'run') == 0 then
  return 0
end
redis.call('HINCRBY', KEYS[1], 'attempts', -1)
redis.call('HDEL', KEYS[1], 'run')
if ARGV[2] == '1' then
  redis.call('HDEL', KEYS[1], 'claim_until')
  redis.call('HINCRBY', KEYS[1], 'waits', 1)
end
return 1
