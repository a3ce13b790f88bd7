-- Give a lock back, if it is still that holder's.
local lock, token = KEYS[1], ARGV[2]
if redis.call('GET', lock) == token then
  return redis.call('DEL', lock)
end
return 0
