-- Removes blobs that nobody has used for long enough; condemns those whose bytes are elsewhere.
-- ARGV: time, the time of grace in milliseconds, how many at most. Answers with since when the
-- next one has been unused.
local now = time()
local names = call('ZRANGEBYSCORE', K .. 'unused', '-inf', text(now - tonumber(ARGV[2])), 'LIMIT', 0, ARGV[3])
for _, name in ipairs(names) do
  call('HDEL', K .. 'blobs', content(name))
  call('ZREM', K .. 'unused', name)
  if sub(name, 1, 1) == 's' then
    call('UNLINK', K .. 'B:' .. name)
  else
    call('SADD', K .. 'condemned', name)
  end
end
return {now, call('ZRANGE', K .. 'unused', 0, 0, 'WITHSCORES')[2] or ''}
