-- The channel refused one person: nothing is sent to them for a while, longer each time in a row.
-- Returns the seconds of the rest
local pair, refused = KEYS[1], KEYS[2]
local now, pause, longest_rest = clock(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local pair_seconds, pair_burst = tonumber(ARGV[4]), tonumber(ARGV[5])
-- So long after its end, and as long as it lasted, a refusal is the first again.
local first_again = tonumber(ARGV[6])
local refusals = redis.call('INCR', refused)
local rest = pause
if pause > 1 then
  rest = math.min(pause ^ refusals, longest_rest)
end
redis.call('EXPIRE', refused, math.ceil(2 * rest) + first_again)
local full = rest + (pair_burst - 1) * pair_seconds
redis.call('SET', pair, written(now + full), 'PX', math.ceil(full * 1000) + 1000)
return tostring(rest)
