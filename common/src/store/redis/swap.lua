-- Writes fields of hashes, if all of them are still as they were read. ARGV: time, then for each the hash, the field,
-- what was read, what is to be (each empty for nothing), and when the store must look at it (empty for never).
-- Answers with whether it was written.
local now = time()
for n = 2, #ARGV, 5 do
  if (call('HGET', K .. ARGV[n], ARGV[n + 1]) or '') ~= ARGV[n + 2] then return {now, 0} end
end
for n = 2, #ARGV, 5 do
  local hash, field, before, after, due = ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3], ARGV[n + 4]
  local member = sub(hash, 1, 1) .. field
  if after == '' then
    call('HDEL', K .. hash, field)
  else
    call('HSET', K .. hash, field, after)
  end
  if due == '' or after == '' then
    call('ZREM', K .. 'looks', member)
  else
    call('ZADD', K .. 'looks', due, member)
  end
  if hash == 'meters' and before == '' and after ~= '' then call('ZADD', K .. 'names', 0, field) end
  if hash == 'meters' and after == '' then call('ZREM', K .. 'names', field) end
end
return {now, 1}
