-- What stands before every script: the one clock that processes are compared by.
-- Redis' own time in Unix seconds, or what a test gave instead ('' where it gave none).
local function clock(given)
  if given ~= '' then
    return tonumber(given)
  end
  local now = redis.call('TIME')
  return tonumber(now[1]) + tonumber(now[2]) / 1000000
end
local function written(seconds)
  return string.format('%.6f', seconds)
end
