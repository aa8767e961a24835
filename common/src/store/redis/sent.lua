-- Forgets hints. ARGV: time, then ids each followed by the version (four bytes) that the hint was for: one for a
-- later version stays.
local gone = {}
for n = 2, #ARGV do
  local id = sub(ARGV[n], 1, 16)
  local record = call('LINDEX', K .. 't' .. id, 0)
  if not record or sub(record, 37, 40) == sub(ARGV[n], 17, 20) then gone[#gone + 1] = id end
end
many('ZREM', K .. 'outbox', gone)
return {time()}
