-- Keeps a blob, unless its content is kept already. ARGV: time, the name, and the bytes if they
-- are kept here. Answers with the name that it has.
local now = time()
local name = ARGV[2]
local known = call('HGET', K .. 'blobs', content(name))
if known then
  if call('EXISTS', K .. 'U:' .. known) == 0 then call('ZADD', K .. 'unused', text(now), known) end
  return {now, known}
end
if call('SISMEMBER', K .. 'condemned', name) == 0 then
  call('HSET', K .. 'blobs', content(name), name)
  call('ZADD', K .. 'unused', text(now), name)
  if ARGV[3] then call('SET', K .. 'B:' .. name, ARGV[3]) end
end
return {now, name}
