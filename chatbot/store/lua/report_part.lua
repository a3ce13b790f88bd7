-- Somebody knows what became of a part that was being sent (the provider says it, or a run that lost its
-- claim meanwhile): whoever was in doubt goes on behind it, and need not rest any longer.
-- Returns 1 when that was news, 0 when it was known
local conversation, outbox = KEYS[1], KEYS[2]
-- 'what' is 'sent': this part; or 'refused': with it the whole turn.
local number, part, what = ARGV[2], ARGV[3], ARGV[4]
local delivered = tonumber(redis.call('HGET', conversation, 'delivered') or '0')
local parts = tonumber(redis.call('HGET', conversation, 'parts') or '0')
if tonumber(number) ~= delivered + 1 or tonumber(part) ~= parts
   or redis.call('HGET', conversation, 'calling') ~= number .. ':' .. part then
  return 0
end
redis.call('HDEL', conversation, 'calling', 'calling_at', 'rests_until')
if what == 'sent' then
  redis.call('HSET', conversation, 'parts', parts + 1)
else
  redis.call('HSET', conversation, 'delivered', number)
  redis.call('HDEL', conversation, 'parts', 'sender_turn', 'sender_runs', 'plain')
  redis.call('HDEL', outbox, number)
end
return 1
