-- Reads fields of hashes. ARGV: time, then hashes each followed by a field. Answers with what is there, empty for nothing.
local found = {}
for n = 2, #ARGV, 2 do found[#found + 1] = call('HGET', K .. ARGV[n], ARGV[n + 1]) or '' end
return {time(), found}
