-- Hints that have waited for long: they wait anew. ARGV: time, age, how many at most. Answers with their tasks.
local now = time()
local old = call('ZRANGEBYSCORE', K .. 'outbox', '-inf', text(now - tonumber(ARGV[2])), 'LIMIT', 0, ARGV[3])
local found, again, gone = {}, {}, {}
for _, id in ipairs(old) do
  local record = call('LINDEX', K .. 't' .. id, 0)
  if record and byte(record, 33) == 1 then
    found[#found + 1] = id
    found[#found + 1] = record
    again[#again + 1] = text(now)
    again[#again + 1] = id
  else
    gone[#gone + 1] = id
  end
end
many('ZADD', K .. 'outbox', again)
many('ZREM', K .. 'outbox', gone)
return {now, found}
