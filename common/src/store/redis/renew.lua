-- Renews leases. ARGV: time, length, then ids each followed by its token. Answers for each: 0 lost, 1 renewed,
-- 2 renewed and signals wait.
local now = time()
local expires = now + tonumber(ARGV[2])
local answers, due = {}, {}
for n = 3, #ARGV do
  local id, token = sub(ARGV[n], 1, 16), sub(ARGV[n], 17, 32)
  local key = K .. 't' .. id
  local record = call('LINDEX', key, 0)
  local held = record and byte(record, 33) == 2 and sub(record, 17, 32) == token and unpack('>i8', record, 9) > now
  if held then
    call('LSET', key, 0, sub(record, 1, 8) .. pack('>i8', expires) .. sub(record, 17))
    due[#due + 1] = text(expires)
    due[#due + 1] = id
    answers[#answers + 1] = unpack('>I4', record, 45) > 0 and 2 or 1
  else
    answers[#answers + 1] = 0
  end
end
if #due > 0 then many('ZADD', K .. 'due', due) end
return {now, text(expires), answers}
