-- Nothing is sent from a number for a while.
local number = KEYS[1]
local now, pause = clock(ARGV[1]), tonumber(ARGV[2])
redis.call('SET', number, written(now + pause), 'PX', math.ceil(pause * 1000) + 1000)
return 1
