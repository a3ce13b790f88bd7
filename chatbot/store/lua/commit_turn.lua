-- Write a turn, but only for the run that holds the claim: compare-and-set.
-- Returns 'overtaken' when another run took over, 'next' when written, 'behind' when written behind replies that wait
local conversation, history, turn, outbox, due = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local now, fence, number, turn_json = clock(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local history_turns, retention, dedupe_seconds = tonumber(ARGV[5]), ARGV[6], ARGV[7]
local user, overdue_seconds = ARGV[8], tonumber(ARGV[9])
local before = tonumber(number) - 1
if redis.call('HGET', conversation, 'run') ~= fence
   or tonumber(redis.call('HGET', conversation, 'turns') or '0') ~= before then
  return 'overtaken'
end
redis.call('HSET', conversation, 'turns', number)
redis.call('HDEL', conversation, 'message', 'attempts', 'waits', 'run', 'claim_until')
redis.call('RPUSH', history, turn_json)
redis.call('LTRIM', history, -history_turns, -1)
redis.call('SET', turn, turn_json, 'EX', dedupe_seconds)
redis.call('HSET', outbox, number, turn_json)
redis.call('EXPIRE', conversation, retention)
redis.call('EXPIRE', history, retention)
redis.call('EXPIRE', outbox, retention)
local overdue = written(now + overdue_seconds)
if tonumber(redis.call('HGET', conversation, 'delivered') or '0') < before then
  redis.call('ZADD', due, 'NX', overdue, user)
  return 'behind'
end
redis.call('ZADD', due, overdue, user)
return 'next'
