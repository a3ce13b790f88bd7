-- Take a place in the schedule of one number and of one person (generic cell rate: each
-- key holds the time from which the bucket is full again). Both or neither are taken. The
-- number's also holds since when it is in use without a rest: it warms up first.
-- Returns {1, wait}: taken, to be sent in ``wait`` seconds | {0, wait}: not taken, to be asked again then
local pair_key, number_key = KEYS[1], KEYS[2]
local now, pair_seconds, pair_burst = clock(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local number_seconds = tonumber(ARGV[4])
-- The longest wait for the number that a sender sleeps through.
local longest = tonumber(ARGV[5])
-- Where only the number's place was missed, the pair's is held already.
local held = ARGV[6] == '1'
-- After so long a number has rested, it takes as long to warm up, and is so many times slower until then.
local warm_up, slower = tonumber(ARGV[7]), tonumber(ARGV[8])
local pair = math.max(tonumber(redis.call('GET', pair_key) or '0'), now)
local early = pair - (pair_burst - 1) * pair_seconds - now
if early > 0 and not held then
  return {0, tostring(early)}
end
local slot, since = string.match(redis.call('GET', number_key) or '0', '^(%S+) ?(%S*)$')
local rested = tonumber(slot) < now - warm_up
slot = math.max(tonumber(slot), now)
since = not rested and tonumber(since) or slot
local wait = slot - now
if wait > longest then
  return {0, tostring(wait)}
end
local step = number_seconds
if slot - since < warm_up then
  step = step * slower
end
slot = slot + step
if not held then
  pair = pair + pair_seconds
  redis.call('SET', pair_key, written(pair), 'PX', math.ceil((pair - now) * 1000) + 1000)
end
redis.call('SET', number_key, written(slot) .. ' ' .. written(since), 'PX', math.ceil((slot - now) * 1000) + 1000)
return {1, tostring(wait)}
