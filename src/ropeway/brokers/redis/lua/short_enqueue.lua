-- Store the jobs of one or more calls, each call by itself: all its checks, then all its writes.
-- head: {whether some id comes twice, {call_id or false, segment, ...}, ...}; then the arguments of the segments in their order.
-- Returns, in MessagePack, for each call: 0, all stored; {answer, ...}, 0 or {code, id, wait_ms};
-- {"id", id, queue, task of the other job} or {"limit", id, limit}: refused, nothing of it was written.
local calls = decode(ARGV[2])
local has_twins = table.remove(calls, 1)
do
  local replies = not has_twins and enqueue_short(calls)
  if replies then
    finish()
    return encode(replies)
  end
end
