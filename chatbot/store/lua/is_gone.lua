-- Whether a process has not said for so long that it lives that it does not.
-- KEYS processes
-- ARGV now, process, seconds after which a silent process is gone
local now = clock(ARGV[1])
local quiet_until = redis.call('HGET', KEYS[1], ':quiet_until')
if not quiet_until or tonumber(quiet_until) > now then
  return 0
end
local said = redis.call('HGET', KEYS[1], ARGV[2])
if not said then
  return 1
end
return now - tonumber(string.match(said, '^%S+')) > tonumber(ARGV[3]) and 1 or 0
