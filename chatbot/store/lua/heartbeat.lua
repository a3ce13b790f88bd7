-- A process says that it lives. Where nobody could say so for a while (Redis was away), nobody is taken
-- for gone before everybody had the time to say it again.
-- KEYS processes
-- ARGV now, process, what it says of itself as JSON, seconds after which a silent process is gone
local now = clock(ARGV[1])
local last = tonumber(redis.call('HGET', KEYS[1], ':last') or '0')
local alive = tonumber(ARGV[4])
if now - last > alive then
  redis.call('HSET', KEYS[1], ':quiet_until', written(now + alive))
end
redis.call('HSET', KEYS[1], ':last', written(now), ARGV[2], written(now) .. ' ' .. ARGV[3])
return written(now)
