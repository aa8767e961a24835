-- Reads tasks. ARGV: time, R for their records alone or E for all that an entry needs, then ids.
-- A task is its record, its newest snapshot, the events from there on (the newest one in any case),
-- the signals that wait for its holder, and its unfinished children.
local tasks = {}
for n = 3, #ARGV do
  local id = ARGV[n]
  local key = K .. 't' .. id
  local record = call('LINDEX', key, 0)
  if not record then
    tasks[n - 2] = false
  elseif ARGV[2] == 'R' then
    tasks[n - 2] = {record}
  else
    local snapshot = unpack('>I4', record, 65)
    local version = unpack('>I4', record, 37)
    local head = snapshot > 0 and call('GET', K .. 'h' .. id)
    if not head then snapshot = 0 end
    -- The event of the snapshot, too: the chain of those after it hangs upon its hash.
    local from = math.min(math.max(snapshot, 1), version)
    local kept = unpack('>I4', record, 45) > 0 and call('LRANGE', K .. 'i' .. id, 0, -1) or {}
    local children = math.floor(byte(record, 34) / 2) % 2 == 1 and call('SMEMBERS', K .. 'u' .. id) or {}
    tasks[n - 2] = {record, head or '', from, call('LRANGE', key, from, -1), kept, children}
  end
end
return {time(), tasks}
