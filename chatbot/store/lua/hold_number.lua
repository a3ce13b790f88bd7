-- Nothing is sent from a number for a while.
-- KEYS pace of the number
-- ARGV now, pause
redis.call('SET', KEYS[1], written(clock(ARGV[1]) + tonumber(ARGV[2])), 'PX', math.ceil(tonumber(ARGV[2]) * 1000) + 1000)
return 1
