-- Forget that a user is being served, unless a turn began since.
local sessions = KEYS[1]
local user, unless_active_since = ARGV[2], tonumber(ARGV[3])
local active_at = redis.call('ZSCORE', sessions, user)
if active_at and tonumber(active_at) <= unless_active_since then
  redis.call('ZREM', sessions, user)
end
