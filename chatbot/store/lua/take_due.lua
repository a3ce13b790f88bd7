-- Take those of some users whose replies are overdue, and move them on: they are overdue again only so much later.
-- Returns the users that were taken. ARGV: now, seconds, users …
local due = KEYS[1]
local now, seconds = clock(ARGV[1]), tonumber(ARGV[2])
local taken = {}
for index = 3, #ARGV do
  local user = ARGV[index]
  local due_at = redis.call('ZSCORE', due, user)
  if due_at and tonumber(due_at) <= now then
    redis.call('ZADD', due, written(now + seconds), user)
    table.insert(taken, user)
  end
end
return taken
