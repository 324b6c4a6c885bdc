-- What has to be told to other shards. head: {"read", at most} or {"drop", number}.
-- read: returns {number, kind, queue, ...} for each, oldest first; drop removes those up to a number.
local verb, n = unpack(decode(ARGV[2]))
local outbox, reply = SHARD .. ':ob', {}
if verb == 'read' then
  for at, kept in ipairs(call('LRANGE', outbox, 0, n - 1)) do reply[at] = decode(kept) end
  return reply
end
while true do
  local first = call('LINDEX', outbox, 0)
  if not first or decode(first)[1] > n then return 0 end
  call('LPOP', outbox)
end
