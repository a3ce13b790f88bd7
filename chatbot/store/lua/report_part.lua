-- Somebody knows what became of a part that was being sent (the provider says it, or a run that lost its
-- claim meanwhile): whoever was in doubt goes on behind it, and need not rest any longer.
-- KEYS conversation, outbox
-- ARGV now, number, part, what ('sent': this part; 'refused': with it the whole turn)
-- Returns 1 when that was news, 0 when it was known
local delivered = tonumber(redis.call('HGET', KEYS[1], 'delivered') or '0')
local parts = tonumber(redis.call('HGET', KEYS[1], 'parts') or '0')
if tonumber(ARGV[2]) ~= delivered + 1 or tonumber(ARGV[3]) ~= parts
   or redis.call('HGET', KEYS[1], 'calling') ~= ARGV[2] .. ':' .. ARGV[3] then
  return 0
end
redis.call('HDEL', KEYS[1], 'calling', 'calling_at', 'rests_until')
if ARGV[4] == 'sent' then
  redis.call('HSET', KEYS[1], 'parts', parts + 1)
else
  redis.call('HSET', KEYS[1], 'delivered', ARGV[2])
  redis.call('HDEL', KEYS[1], 'parts', 'sender_turn', 'sender_runs', 'plain')
  redis.call('HDEL', KEYS[2], ARGV[2])
end
return 1
