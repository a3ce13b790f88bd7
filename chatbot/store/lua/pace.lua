-- Take a place in the schedule of one number and of one person (generic cell rate: each
-- key holds the time from which the bucket is full again). Both or neither are taken. The
-- number's also holds since when it is in use without a rest: it warms up first.
-- KEYS pair, number
-- ARGV now, seconds per message to the pair, its burst, seconds per message of the number,
--      the longest wait for the number that a sender sleeps through,
--      1 where the pair's place is held already and only the number's was missed,
--      seconds after which a number has rested, and that it takes to warm up;
--      how many times slower it is until then
-- Returns {1, wait}: taken, to be sent in ``wait`` seconds | {0, wait}: not taken, to be asked again then
local now = clock(ARGV[1])
local pair = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local early = pair - (tonumber(ARGV[3]) - 1) * tonumber(ARGV[2]) - now
local held = ARGV[6] == '1'
if early > 0 and not held then
  return {0, tostring(early)}
end
local slot, since = string.match(redis.call('GET', KEYS[2]) or '0', '^(%S+) ?(%S*)$')
local rested = tonumber(slot) < now - tonumber(ARGV[7])
slot = math.max(tonumber(slot), now)
since = not rested and tonumber(since) or slot
local wait = slot - now
if wait > tonumber(ARGV[5]) then
  return {0, tostring(wait)}
end
local step = tonumber(ARGV[4])
if slot - since < tonumber(ARGV[7]) then
  step = step * tonumber(ARGV[8])
end
slot = slot + step
if not held then
  pair = pair + tonumber(ARGV[2])
  redis.call('SET', KEYS[1], string.format('%.6f', pair), 'PX', math.ceil((pair - now) * 1000) + 1000)
end
redis.call('SET', KEYS[2], string.format('%.6f %.6f', slot, since), 'PX', math.ceil((slot - now) * 1000) + 1000)
return {1, tostring(wait)}
