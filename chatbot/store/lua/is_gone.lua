-- Whether a process has not said for so long that it lives that it does not.
local processes = KEYS[1]
local now, process, alive = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local quiet_until = redis.call('HGET', processes, ':quiet_until')
if not quiet_until or tonumber(quiet_until) > now then
  return 0
end
local said = redis.call('HGET', processes, process)
if not said then
  return 1
end
return now - tonumber(string.match(said, '^%S+')) > alive and 1 or 0
