-- What all scripts share. KEYS[1] is what all keys of the partition begin with;
-- every script touches keys of that partition only. ARGV[1] is the time in
-- milliseconds, or empty for the server's own. Offsets are those of record.rs.
local K = KEYS[1]
local call, sub, byte = redis.call, string.sub, string.byte
local unpack, pack = struct.unpack, struct.pack
local MOST = 4000 -- arguments of one command: Lua's stack is limited

local function time()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function text(number) return string.format('%.0f', number) end

-- What the name of a blob says of its house and its content: unique among those that are kept.
local function content(name) return sub(name, 1, 1) .. sub(name, 23) end

-- Calls a command with a list of arguments, in pieces; the sum of its answers.
local function many(command, key, list)
  local sum = 0
  for from = 1, #list, MOST do
    local n = call(command, key, _G.unpack(list, from, math.min(from + MOST - 1, #list)))
    if type(n) == 'number' then sum = sum + n end
  end
  return sum
end

-- Adds to a counter; one at zero goes.
local function count(key, field, by)
  if by ~= 0 and call('HINCRBY', key, field, by) == 0 then call('HDEL', key, field) end
end
