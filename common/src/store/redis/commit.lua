-- Writes what units of work ask for: each all or nothing, on the condition that
-- nothing that it was planned upon has changed. Everything is checked before
-- anything of a unit is written, for Lua has no rollback.
--
-- ARGV: time, channel, then the units. A unit begins with a header that counts its
-- arguments, checks, absent keys, blobs, depths, births, writes and operations (see
-- unit.rs). Answers with the time, one number a unit (1 done, 0 stale, 2 the lease
-- is over, 3 a queue would be too deep, 4 a blob is not kept), and what retention counts if a task ended.
local now = time()
local results, touched = {}, {}
local removes, adds, order = {}, {}, {}
local sums, sum_order, costs = {}, {}, {}
local rows, quits = {}, {}
local depth_added = {}
local ended = false

local REMOVES = {ZREM = true, SREM = true, HDEL = true, LREM = true, UNLINK = true}

local function depth(queue)
  local d = call('HMGET', K .. 'n', '0' .. queue, '1' .. queue)
  return (tonumber(d[1]) or 0) + (tonumber(d[2]) or 0) + (depth_added[queue] or 0)
end

-- Whether a unit may be written; each check is the id, and the stamp that is
-- expected (none: there is no such task), and L if its lease must hold now.
local function check(i, checks, keys, blobs, depths, births, ops)
  for _ = 1, checks do
    local what = ARGV[i]
    local id = sub(what, 1, 16)
    if touched[id] then return 0 end
    local record = call('LINDEX', K .. 't' .. id, 0)
    if #what == 16 then
      if record then return 0 end
    else
      if not record or sub(record, 1, 8) ~= sub(what, 17, 24) then return 0 end
      if byte(what, 25) == 76 and unpack('>i8', record, 9) <= now then return 2 end
    end
    i = i + 1
  end
  for from = 1, keys, MOST do
    local found = call('HMGET', K .. 'keys', _G.unpack(ARGV, i + from - 1, i + math.min(from + MOST - 1, keys) - 1))
    for n = 1, #found do if found[n] then return 0 end end
  end
  for n = i, i + keys - 1 do
    if touched[ARGV[n]] then return 0 end
  end
  i = i + keys
  for n = i, i + blobs - 1 do
    if call('HGET', K .. 'blobs', content(ARGV[n])) ~= ARGV[n] then return 4 end
  end
  i = i + blobs
  for _ = 1, depths do
    if depth(ARGV[i]) + tonumber(ARGV[i + 1]) > tonumber(ARGV[i + 2]) then return 3 end
    i = i + 3
  end
  local names = {}
  for n = 1, births do
    local id = ARGV[i + 3 * (n - 1)]
    if touched[id] then return 0 end
    names[n] = K .. 't' .. id
  end
  for from = 1, births, MOST do
    if call('EXISTS', _G.unpack(names, from, math.min(from + MOST - 1, births))) > 0 then return 0 end
  end
  return 1
end

local function gather(command, key, i, n)
  if command == '+' then
    local of = sums[key]
    if not of then of = {}; sums[key] = of; sum_order[#sum_order + 1] = key end
    of[ARGV[i]] = (of[ARGV[i]] or 0) + tonumber(ARGV[i + 1])
  elseif command == '$' then
    costs[#costs + 1] = {key, ARGV[i], ARGV[i + 1]}
  elseif command == 'ROW' then
    rows[#rows + 1] = {key, ARGV[i], ARGV[i + 1]}
  elseif command == 'QUIT' then
    quits[#quits + 1] = key
  elseif command == 'LREM' then
    removes[#removes + 1] = {command, key, {'1', ARGV[i]}}
  else
    local name = command .. key
    local list = order[name]
    if not list then
      list = {}
      order[name] = list
      local into = REMOVES[command] and removes or adds
      into[#into + 1] = {command, key, list}
    end
    for a = i, i + n - 1 do list[#list + 1] = ARGV[a] end
    if command == 'RPUSH' then ended = ended or key == 'f' or key == 'd' end
  end
end

local i = 3
local last = #ARGV
while i <= last do
  local length, checks, keys, blobs, depths, births, writes, ops = unpack('>I4I4I4I4I4I4I4I4', ARGV[i])
  local result = check(i + 1, checks, keys, blobs, depths, births, ops)
  results[#results + 1] = result
  if result == 1 then
    local a = i + 1
    for n = a, a + checks - 1 do touched[sub(ARGV[n], 1, 16)] = true end
    a = a + checks
    for n = a, a + keys - 1 do touched[ARGV[n]] = true end
    a = a + keys + blobs
    for _ = 1, depths do
      depth_added[ARGV[a]] = (depth_added[ARGV[a]] or 0) + tonumber(ARGV[a + 1])
      a = a + 3
    end
    for _ = 1, births do
      touched[ARGV[a]] = true
      call('RPUSH', K .. 't' .. ARGV[a], ARGV[a + 1], ARGV[a + 2])
      a = a + 3
    end
    for _ = 1, writes do
      -- The id, L if the lease is to stay as the store has it, and the number of events.
      local what, record = ARGV[a], ARGV[a + 1]
      local id = sub(what, 1, 16)
      local key = K .. 't' .. id
      touched[id] = true
      if byte(what, 17) == 76 then
        record = sub(record, 1, 8) .. sub(call('LINDEX', key, 0), 9, 16) .. sub(record, 17)
      end
      call('LSET', key, 0, record)
      local events = unpack('>I4', what, 18)
      a = a + 2
      for from = a, a + events - 1, MOST do
        call('RPUSH', key, _G.unpack(ARGV, from, math.min(from + MOST - 1, a + events - 1)))
      end
      a = a + events
    end
    for _ = 1, ops do
      local n = unpack('>I4', ARGV[a])
      gather(ARGV[a + 1], ARGV[a + 2], a + 3, n)
      a = a + 3 + n
    end
  end
  i = i + length
end

for _, op in ipairs(removes) do
  if op[1] == 'UNLINK' then call('UNLINK', K .. op[2]) else many(op[1], K .. op[2], op[3]) end
end
local rung = {}
for _, op in ipairs(adds) do
  local added = many(op[1], K .. op[2], op[3])
  -- A bell for a queue that was empty; whoever waits for another has looked into it before.
  if op[1] == 'ZADD' and sub(op[2], 1, 2) == 'q:' and call('ZCARD', K .. op[2]) <= added then
    rung[#rung + 1] = sub(op[2], 3)
  end
end
for _, id in ipairs(quits) do
  -- After all additions: another task of the group may begin to use what this one leaves.
  for _, name in ipairs(call('SMEMBERS', K .. 'w' .. id)) do
    call('SREM', K .. 'U:' .. name, id)
    if call('EXISTS', K .. 'U:' .. name) == 0 then call('ZADD', K .. 'unused', text(now), name) end
  end
  call('UNLINK', K .. 'w' .. id)
end
for _, key in ipairs(sum_order) do
  for field, by in pairs(sums[key]) do count(K .. key, field, by) end
end
for _, cost in ipairs(costs) do call('HINCRBYFLOAT', K .. cost[1], cost[2], cost[3]) end
for _, row in ipairs(rows) do
  -- A line that was noted before stays as it is.
  local batch, line, member = row[1], row[2], row[3]
  if call('ZCOUNT', K .. 'br:' .. batch, line, line) == 0 and call('ZCOUNT', K .. 'bx:' .. batch, line, line) == 0 then
    call('ZADD', K .. 'br:' .. batch, line, member)
    if byte(member, 1) == 68 then
      count(K .. 'bn:' .. batch, 'u', 1)
      call('SADD', K .. 'bd:' .. batch, sub(member, 2, 17))
    end
  end
end
if #rung > 0 then call('PUBLISH', ARGV[2], table.concat(rung, ',')) end
return {now, results, ended and call('HMGET', K .. 'n', 'f', 'F', 'd', 'D') or {}}
