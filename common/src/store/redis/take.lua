-- Leases ready tasks. ARGV: time, length of the lease, the worker as JSON, how many at most, how many bytes of
-- journals at most, T to take from queues or C to claim named tasks, their number, them (for T each with the most
-- that it may give; none at all for every queue), then a token and a stamp for each that may be leased. Queues take
-- turns in the order given: within a queue priority rules, but no queue starves another.
local now = time()
local expires = now + tonumber(ARGV[2])
local max, room, mode, names = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local first_token = 8 + names * (mode == 'T' and 2 or 1)
local moment, ends = text(now), text(expires)
local claims, leased, due, taken, states = {}, {}, {}, {}, {}
local events = {} -- by attempt, without the time
local full = false
local astray = {} -- in a queue although it is not ready: must not stand in the way

local paused = {}
for _, queue in ipairs(call('SMEMBERS', K .. 'paused')) do paused[queue] = true end

local function lease(id, score)
  local key = K .. 't' .. id
  local journal = call('LRANGE', key, 0, -1)
  local record = journal[1]
  if not record or byte(record, 33) ~= 1 then
    if score then astray[#astray + 1] = id end
    return false
  end
  local queue = sub(record, 101, 100 + byte(record, 36))
  if paused[queue] then return false end
  local shape, version, attempts, kept, bytes = unpack('>c3I4I4c4I8', record, 34)
  if #claims > 0 and bytes > room then
    full = true
    return false
  end
  room = room - bytes
  local right = ARGV[first_token + #claims]
  attempts = attempts + 1
  local event = events[attempts]
  if not event then
    event = '{"type":"leased","attempt":' .. attempts .. ',"worker":' .. ARGV[3] .. '}'
    events[attempts] = event
  end
  -- One call for all that changes: each string that Lua makes costs.
  record = pack('>c8i8c16c1c3I4I4c4I8', sub(right, 17, 24), expires, right, '\2', shape, version + 1, attempts, kept,
    bytes + #event) .. sub(record, 57)
  event = moment .. event
  call('LSET', key, 0, record)
  call('RPUSH', key, event)
  journal[1] = record
  journal[#journal + 1] = event
  claims[#claims + 1] = {id, score or '', journal}
  leased[#leased + 1] = id
  due[#due + 1] = ends
  due[#due + 1] = id
  local of = taken[queue]
  if not of then of = {}; taken[queue] = of; states[#states + 1] = queue end
  of[#of + 1] = id
  local flags = byte(shape, 1)
  if math.floor(flags / 32) % 2 == 1 then
    -- The batch is the last thing in the record, behind what else the flags name.
    local at = 101 + byte(record, 36)
    for _, flag in ipairs({4, 8, 16}) do
      if math.floor(flags / flag) % 2 == 1 then at = at + 16 end
    end
    local batch = K .. 'bn:' .. sub(record, at + 1, at + byte(record, at))
    count(batch, '1', -1)
    count(batch, '2', 1)
  end
  return true
end

if mode == 'C' then
  for n = 8, 7 + names do
    if #claims < max and not full then lease(ARGV[n]) end
  end
else
  local queues = {}
  for n = 1, names do queues[n] = {name = ARGV[6 + 2 * n], quota = tonumber(ARGV[7 + 2 * n]), at = 0} end
  while #claims < max and #queues > 0 and not full do
    local share = math.ceil((max - #claims) / #queues)
    local more = {}
    for _, queue in ipairs(queues) do
      local wanted = math.min(share, max - #claims, queue.quota)
      if wanted <= 0 or full then break end
      if not paused[queue.name] then
        local found = call('ZRANGE', K .. 'q:' .. queue.name, queue.at, queue.at + wanted - 1, 'WITHSCORES')
        for n = 1, #found, 2 do
          if not full then lease(found[n], found[n + 1]) end
        end
        if #astray > 0 then
          many('ZREM', K .. 'q:' .. queue.name, astray)
          astray = {}
        end
        queue.at = queue.at + wanted
        queue.quota = queue.quota - wanted
        if #found == 2 * wanted and queue.quota > 0 then more[#more + 1] = queue end
      end
    end
    queues = more
  end
end

for _, queue in ipairs(states) do
  many('ZREM', K .. 'q:' .. queue, taken[queue])
  count(K .. 'n', '1' .. queue, -#taken[queue])
  count(K .. 'n', '2' .. queue, #taken[queue])
end
if #leased > 0 then
  many('ZADD', K .. 'due', due)
  many('ZREM', K .. 'outbox', leased)
end
return {now, ends, claims}
