-- The provider says that it has a part of ours: whoever was in doubt goes on behind it.
-- KEYS conversation
-- ARGV now, number, part
-- Returns 1 when that was news, 0 when it was known
local delivered = tonumber(redis.call('HGET', KEYS[1], 'delivered') or '0')
local parts = tonumber(redis.call('HGET', KEYS[1], 'parts') or '0')
if tonumber(ARGV[2]) ~= delivered + 1 or tonumber(ARGV[3]) ~= parts
   or redis.call('HGET', KEYS[1], 'calling') ~= ARGV[2] .. ':' .. ARGV[3] then
  return 0
end
redis.call('HSET', KEYS[1], 'parts', parts + 1)
redis.call('HDEL', KEYS[1], 'calling', 'calling_at')
return 1
