-- The channel refused one person: nothing is sent to them for a while, longer each time in a row.
-- KEYS pace, refused
-- ARGV now, pause, longest rest, seconds per message, burst, seconds after which a refusal is the first again
-- Returns the seconds of the rest
local now = clock(ARGV[1])
local pause = tonumber(ARGV[2])
local refusals = redis.call('INCR', KEYS[2])
local rest = pause
if pause > 1 then
  rest = math.min(pause ^ refusals, tonumber(ARGV[3]))
end
redis.call('EXPIRE', KEYS[2], math.ceil(2 * rest) + tonumber(ARGV[6]))
local full = rest + (tonumber(ARGV[5]) - 1) * tonumber(ARGV[4])
redis.call('SET', KEYS[1], written(now + full), 'PX', math.ceil(full * 1000) + 1000)
return tostring(rest)
