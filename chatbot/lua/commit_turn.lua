-- Write a turn, but only for the run that holds the newest claim: compare-and-set.
-- KEYS conversation, history, turn of this message, outbox, due
-- ARGV claim, number, turn as JSON, history length, retention s, dedupe s, user, overdue at
-- Returns 1 when written, 0 when a newer run took over
if redis.call('HGET', KEYS[1], 'claim') ~= ARGV[1]
   or tonumber(redis.call('HGET', KEYS[1], 'turns') or '0') ~= tonumber(ARGV[2]) - 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'turns', ARGV[2])
redis.call('HDEL', KEYS[1], 'message', 'attempts', 'waits', 'run', 'claim_until')
redis.call('RPUSH', KEYS[2], ARGV[3])
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[4]), -1)
redis.call('SET', KEYS[3], ARGV[3], 'EX', ARGV[6])
redis.call('HSET', KEYS[4], ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[5], ARGV[8], ARGV[7])
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[5])
redis.call('EXPIRE', KEYS[4], ARGV[5])
return 1
