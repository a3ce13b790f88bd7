-- Give a lock back, if it is still that holder's.
-- KEYS lock
-- ARGV now, token
if redis.call('GET', KEYS[1]) == ARGV[2] then
  return redis.call('DEL', KEYS[1])
end
return 0
