local from, replies = 3, {}

for at, one in ipairs(calls) do
  local call_id = table.remove(one, 1)
  local reply = call_id and known_call(call_id)
  if reply then
    for _, segment in ipairs(one) do
      from = from + segment[3] * (segment[2] < 0 and 4 or 2)
    end
  else
    reply, from = enqueue_call(one, ARGV, from)
    if call_id and (reply == 0 or type(reply[1]) ~= 'string') then note_call(call_id, reply) end
  end
  replies[at] = reply
end
finish()
return encode(replies)
