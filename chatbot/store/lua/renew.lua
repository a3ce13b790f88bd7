-- Have a claim stand for so many seconds more, if it is still that run's.
local conversation = KEYS[1]
local now, fence_field, until_field, fence, seconds = clock(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
if redis.call('HGET', conversation, fence_field) ~= fence then
  return 0
end
redis.call('HSET', conversation, until_field, written(now + seconds))
return 1
