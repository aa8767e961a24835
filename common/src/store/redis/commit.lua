-- Writes what a group of units of work asks for, on the condition that nothing
-- that they were planned upon has changed: all of them, or none if one of them
-- is refused. Everything is checked before anything is written, for Lua has no rollback.
--
-- ARGV: time, channel, a header (how many units, where the births begin, how many births, writes and operations),
-- the units, the births, the writes, the operations: see unit.rs and group.rs. Answers with the time, one number a
-- unit (1 can be done, 0 stale, 2 the lease is over, 3 a queue would be too deep, 4 a blob is not kept), and what
-- retention counts if a task ended. No two units of a group touch the same task or idempotency key.
local now = time()
local units, first_birth, births, writes, operations = unpack('>I4I4I4I4I4', ARGV[3])
local results, records, depth_added = {}, {}, {}

local function depth(queue)
  local d = call('HMGET', K .. 'n', '0' .. queue, '1' .. queue)
  return (tonumber(d[1]) or 0) + (tonumber(d[2]) or 0) + (depth_added[queue] or 0)
end

-- Whether a unit may be written. A check is the id, and the stamp that is expected (none: there is no such task),
-- and L if its lease must hold now.
local function check(i, checks, keys, blobs, depths, born, births)
  for n = i, i + checks - 1 do
    local what = ARGV[n]
    local id = sub(what, 1, 16)
    local record = call('LINDEX', K .. 't' .. id, 0)
    if #what == 16 then
      if record then return 0 end
    else
      if not record or sub(record, 1, 8) ~= sub(what, 17, 24) then return 0 end
      if byte(what, 25) == 76 then
        if unpack('>i8', record, 9) <= now then return 2 end
        records[id] = record
      end
    end
  end
  i = i + checks
  for from = 1, keys, MOST do
    local found = call('HMGET', K .. 'keys', _G.unpack(ARGV, i + from - 1, i + math.min(from + MOST - 1, keys) - 1))
    for n = 1, #found do if found[n] then return 0 end end
  end
  i = i + keys
  for n = i, i + blobs - 1 do
    if call('HGET', K .. 'blobs', content(ARGV[n])) ~= ARGV[n] then return 4 end
  end
  i = i + blobs
  for n = i, i + 3 * (depths - 1), 3 do
    if depth(ARGV[n]) + tonumber(ARGV[n + 1]) > tonumber(ARGV[n + 2]) then return 3 end
  end
  local names = {}
  for n = 1, births do names[n] = K .. 't' .. ARGV[born + 3 * (n - 1)] end
  for from = 1, births, MOST do
    if call('EXISTS', _G.unpack(names, from, math.min(from + MOST - 1, births))) > 0 then return 0 end
  end
  for n = i, i + 3 * (depths - 1), 3 do
    depth_added[ARGV[n]] = (depth_added[ARGV[n]] or 0) + tonumber(ARGV[n + 1])
  end
  return 1
end

local all = true
local i, born = 4, first_birth
for n = 1, units do
  local checks, keys, blobs, depths, births = unpack('>I4I4I4I4I4', ARGV[i])
  results[n] = check(i + 1, checks, keys, blobs, depths, born, births)
  all = all and results[n] == 1
  i = i + 1 + checks + keys + blobs + 3 * depths
  born = born + 3 * births
end
if not all then return {now, results, {}} end

local a = first_birth
for _ = 1, births do
  call('RPUSH', K .. 't' .. ARGV[a], ARGV[a + 1], ARGV[a + 2])
  a = a + 3
end
for _ = 1, writes do
  -- The id, L if the lease is to stay as the store has it, and the number of events.
  local what, record = ARGV[a], ARGV[a + 1]
  local id = sub(what, 1, 16)
  local key = K .. 't' .. id
  if byte(what, 17) == 76 then
    record = sub(record, 1, 8) .. sub(records[id] or call('LINDEX', key, 0), 9, 16) .. sub(record, 17)
  end
  call('LSET', key, 0, record)
  local events = unpack('>I4', what, 18)
  a = a + 2
  for from = a, a + events - 1, MOST do
    call('RPUSH', key, _G.unpack(ARGV, from, math.min(from + MOST - 1, a + events - 1)))
  end
  a = a + events
end

-- Calls a command with arguments of the script, in pieces; the sum of its answers.
local function pass(command, key, from, to)
  local sum = 0
  for first = from, to, MOST do
    local n = call(command, key, _G.unpack(ARGV, first, math.min(first + MOST - 1, to)))
    if type(n) == 'number' then sum = sum + n end
  end
  return sum
end

local rung = {}
local ended = false
for _ = 1, operations do
  local n, command, key = unpack('>I4', ARGV[a]), ARGV[a + 1], K .. ARGV[a + 2]
  local from, to = a + 3, a + 2 + n
  a = to + 1
  if command == '+' then
    for field = from, to, 2 do count(key, ARGV[field], tonumber(ARGV[field + 1])) end
  elseif command == 'UNLINK' then
    call('UNLINK', key)
  elseif command == 'LREM' then
    for value = from, to do call('LREM', key, 1, ARGV[value]) end
  elseif command == '$' then
    call('HINCRBYFLOAT', key, ARGV[from], ARGV[from + 1])
  elseif command == 'ROW' then
    -- A line that was noted before stays as it is.
    local batch, line, member = ARGV[from - 1], ARGV[from], ARGV[from + 1]
    if call('ZCOUNT', K .. 'br:' .. batch, line, line) == 0 and call('ZCOUNT', K .. 'bx:' .. batch, line, line) == 0 then
      call('ZADD', K .. 'br:' .. batch, line, member)
      if byte(member, 1) == 68 then
        count(K .. 'bn:' .. batch, 'u', 1)
        call('SADD', K .. 'bd:' .. batch, sub(member, 2, 17))
      end
    end
  elseif command == 'QUIT' then
    -- After all additions: another task of the group may begin to use what this one leaves.
    local id = ARGV[from - 1]
    for _, name in ipairs(call('SMEMBERS', K .. 'w' .. id)) do
      call('SREM', K .. 'U:' .. name, id)
      if call('EXISTS', K .. 'U:' .. name) == 0 then call('ZADD', K .. 'unused', text(now), name) end
    end
    call('UNLINK', K .. 'w' .. id)
  else
    local added = pass(command, key, from, to)
    local name = ARGV[from - 1]
    if command == 'RPUSH' then
      ended = ended or name == 'f' or name == 'd'
    elseif command == 'ZADD' and sub(name, 1, 2) == 'q:' and call('ZCARD', key) <= added then
      -- A bell for a queue that was empty; whoever waits for another has looked into it before.
      rung[#rung + 1] = sub(name, 3)
    end
  end
end
if #rung > 0 then call('PUBLISH', ARGV[2], table.concat(rung, ',')) end
return {now, results, ended and call('HMGET', K .. 'n', 'f', 'F', 'd', 'D') or {}}
