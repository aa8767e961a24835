-- Says what is due. ARGV: time, how many timers and leases at most, how many of what retention looks at, how many
-- batches.
local now = time()
local due = call('ZRANGEBYSCORE', K .. 'due', '-inf', text(now), 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local first = call('ZRANGE', K .. 'due', 0, 0, 'WITHSCORES')
local most = tonumber(ARGV[3])
local function first_of(name)
  if most == 0 then return {} end
  return call(#name == 1 and 'LRANGE' or 'ZRANGE', K .. name, 0, most - 1)
end
return {
  now, due, first[2] or '', call('HMGET', K .. 'n', 'f', 'F', 'd', 'D'),
  first_of('f'), first_of('ft'), first_of('d'), first_of('dt'),
  call('ZRANGE', K .. 'over', 0, tonumber(ARGV[4]) - 1, 'WITHSCORES'), call('HGETALL', K .. 'notes'),
  call('ZRANGE', K .. 'unused', 0, 0, 'WITHSCORES')[2] or '',
  call('ZRANGE', K .. 'looks', 0, 0, 'WITHSCORES')[2] or '',
}
