-- Says what is due. ARGV: time, how many timers and leases at most, how many of what retention looks at.
local now = time()
local due = call('ZRANGEBYSCORE', K .. 'due', '-inf', text(now), 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local first = call('ZRANGE', K .. 'due', 0, 0, 'WITHSCORES')
local most = tonumber(ARGV[3])
return {
  now, due, first[2] or '', call('HMGET', K .. 'n', 'f', 'F', 'd', 'D'),
  most > 0 and call('LRANGE', K .. 'f', 0, most - 1) or {}, most > 0 and call('LRANGE', K .. 'd', 0, most - 1) or {},
  call('ZRANGE', K .. 'over', 0, 0, 'WITHSCORES'), call('HGETALL', K .. 'notes'),
  call('ZRANGE', K .. 'unused', 0, 0, 'WITHSCORES')[2] or '',
}
