-- Write a turn, but only for the run that holds the claim: compare-and-set.
-- KEYS conversation, history, turn of this message, outbox, due
-- ARGV now, fence, number, turn as JSON, history length, retention s, dedupe s, user,
--      seconds after which the reply is overdue
-- Returns 0 when another run took over, 1 when written, 2 when written behind replies that wait already
if redis.call('HGET', KEYS[1], 'run') ~= ARGV[2]
   or tonumber(redis.call('HGET', KEYS[1], 'turns') or '0') ~= tonumber(ARGV[3]) - 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'turns', ARGV[3])
redis.call('HDEL', KEYS[1], 'message', 'attempts', 'waits', 'run', 'claim_until')
redis.call('RPUSH', KEYS[2], ARGV[4])
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[5]), -1)
redis.call('SET', KEYS[3], ARGV[4], 'EX', ARGV[7])
redis.call('HSET', KEYS[4], ARGV[3], ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('EXPIRE', KEYS[2], ARGV[6])
redis.call('EXPIRE', KEYS[4], ARGV[6])
local overdue = written(clock(ARGV[1]) + tonumber(ARGV[9]))
if tonumber(redis.call('HGET', KEYS[1], 'delivered') or '0') < tonumber(ARGV[3]) - 1 then
  redis.call('ZADD', KEYS[5], 'NX', overdue, ARGV[8])
  return 2
end
redis.call('ZADD', KEYS[5], overdue, ARGV[8])
return 1
