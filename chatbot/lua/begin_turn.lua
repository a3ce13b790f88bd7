-- Claim the next turn of a user: every earlier, unfinished run loses its right to commit.
-- KEYS conversation, history, turn of this message, sessions
-- ARGV message id, history length, user, now
-- Returns {turn of this message or false, claim, turns committed, attempts at this message, history}
local answered = redis.call('GET', KEYS[3])
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[3])
if answered then
  return {answered, 0, 0, 0, {}}
end
local claim = redis.call('HINCRBY', KEYS[1], 'claim', 1)
if redis.call('HGET', KEYS[1], 'message') ~= ARGV[1] then
  redis.call('HSET', KEYS[1], 'message', ARGV[1], 'attempts', 0)
end
local attempts = redis.call('HINCRBY', KEYS[1], 'attempts', 1)
local turns = tonumber(redis.call('HGET', KEYS[1], 'turns') or '0')
local history = {}
if tonumber(ARGV[2]) > 0 then
  history = redis.call('LRANGE', KEYS[2], -tonumber(ARGV[2]), -1)
end
return {false, claim, turns, attempts, history}
