-- Have a claim stand for so many seconds more, if it is still that run's.
-- KEYS conversation
-- ARGV now, field of the fence, field of its end, fence, seconds
if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[4] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[3], written(clock(ARGV[1]) + tonumber(ARGV[5])))
return 1
