-- Looks at queues without taking. ARGV: time, how many of each at most, then queues (none for all). Answers with
-- the paused queues that this partition knows, and for each queue its first tasks with their scores.
local queues = {}
if #ARGV == 2 then
  local all = call('HKEYS', K .. 'n')
  table.sort(all)
  for _, field in ipairs(all) do
    if byte(field, 1) == 49 then queues[#queues + 1] = sub(field, 2) end
  end
else
  for n = 3, #ARGV do queues[#queues + 1] = ARGV[n] end
end
local found = {}
for n, queue in ipairs(queues) do
  found[n] = {queue, call('ZRANGE', K .. 'q:' .. queue, 0, tonumber(ARGV[2]) - 1, 'WITHSCORES')}
end
return {time(), call('SMEMBERS', K .. 'paused'), found}
