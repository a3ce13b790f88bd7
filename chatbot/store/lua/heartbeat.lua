-- A process says that it lives. Where nobody could say so for a while (Redis was away), nobody is taken
-- for gone before everybody had the time to say it again.
-- Returns now
local processes = KEYS[1]
-- What the process says of itself is JSON; silent for longer than 'alive' seconds, it is gone.
local now, process, says, alive = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local last = tonumber(redis.call('HGET', processes, ':last') or '0')
if now - last > alive then
  redis.call('HSET', processes, ':quiet_until', written(now + alive))
end
redis.call('HSET', processes, ':last', written(now), process, written(now) .. ' ' .. says)
return written(now)
