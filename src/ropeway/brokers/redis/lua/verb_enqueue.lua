-- Store the jobs of one or more calls, each call by itself: all its checks, then all its writes.
-- head: {{call_id or false, segment, ...}, ...}; then the arguments of the segments in their order.
-- Returns, in MessagePack, for each call: 0, all stored; {answer, ...}, 0 or {code, id, wait_ms};
-- {"id", id, queue, task of the other job} or {"limit", id, limit}: refused, nothing of it was written.
local from, replies = 3, {}
local minute = floor(now_ms / 60000)

local function known_call(call_id)
  for _, of in ipairs({minute, minute - 1}) do
    local kept = call('HGET', SHARD .. ':calls' .. of, call_id)
    if kept and now_ms - from_bytes('>I6', kept) <= 60000 then return decode(sub(kept, 7)) end
  end
  return nil
end

for at, one in ipairs(decode(ARGV[2])) do
  local call_id = table.remove(one, 1)
  local reply = call_id and known_call(call_id)
  if reply then
    for _, segment in ipairs(one) do
      local width = segment[2] < 0 and 4 or (segment[4] and 3 or 2)
      from = from + segment[3] * width
    end
  else
    reply, from = enqueue_call(one, ARGV, from, true)
    local is_refused = reply ~= 0 and type(reply[1]) == 'string'
    if call_id and not is_refused then
      local calls = SHARD .. ':calls' .. minute
      if call('HSET', calls, call_id, bytes('>I6', now_ms) .. encode(reply)) == 1 and call('HLEN', calls) == 1 then
        call('PEXPIRE', calls, 180000)
      end
    end
  end
  replies[at] = reply
end
finish()
return encode(replies)
