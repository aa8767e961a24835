-- Notes rows of a batch that made no task; a line that was noted before stays as it is. ARGV: time, batch, then
-- lines each followed by its member. Answers with whether the batch is there.
if call('HEXISTS', K .. 'b:' .. ARGV[2], 'pipeline') == 0 then return {time(), 0} end
local rejected, rows = K .. 'bx:' .. ARGV[2], K .. 'br:' .. ARGV[2]
for n = 3, #ARGV, 2 do
  local line = ARGV[n]
  if call('ZCOUNT', rejected, line, line) == 0 and call('ZCOUNT', rows, line, line) == 0 then
    call('ZADD', rejected, line, ARGV[n + 1])
  end
end
return {time(), 1}
