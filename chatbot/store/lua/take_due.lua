-- Take those of some users whose replies are overdue, and move them on: they are overdue again only so much later.
-- KEYS due
-- ARGV now, seconds, users …
local now = clock(ARGV[1])
local taken = {}
for index = 3, #ARGV do
  local due = redis.call('ZSCORE', KEYS[1], ARGV[index])
  if due and tonumber(due) <= now then
    redis.call('ZADD', KEYS[1], written(now + tonumber(ARGV[2])), ARGV[index])
    table.insert(taken, ARGV[index])
  end
end
return taken
