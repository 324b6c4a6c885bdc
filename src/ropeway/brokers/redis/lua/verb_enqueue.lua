-- Store the jobs of one or more calls, each call by itself: all its checks, then all its writes.
-- head: {{call_id or false, segment, ...}, ...}; then the arguments of the segments in their order.
-- Returns, in MessagePack, for each call: 0, all stored; {answer, ...}, 0 or {code, id, wait_ms};
-- {"id", id, queue, task of the other job} or {"limit", id, limit}: refused, nothing of it was written.
local from, replies = 3, {}

for at, one in ipairs(decode(ARGV[2])) do
  local call_id = table.remove(one, 1)
  local reply = call_id and known_calls({call_id})[1]
  if reply then
    for _, segment in ipairs(one) do
      from = from + segment[3] * (segment[2] < 0 and 4 or 2)
    end
  else
    reply, from = enqueue_call(one, ARGV, from)
    if call_id and (reply == 0 or type(reply[1]) ~= 'string') then note_calls({call_id}, {reply}) end
  end
  replies[at] = reply
end
finish()
return encode(replies)
