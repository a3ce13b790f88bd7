-- Take users whose replies are overdue, and move them on: they are overdue again only so much later.
-- KEYS due
-- ARGV now, users at most, seconds
local now = clock(ARGV[1])
local users = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', written(now), 'LIMIT', 0, ARGV[2])
for _, user in ipairs(users) do
  redis.call('ZADD', KEYS[1], written(now + tonumber(ARGV[3])), user)
end
return users
