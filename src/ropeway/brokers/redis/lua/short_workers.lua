-- Workers. head: {"beat", id} with ARGV[3] the client's bytes; {"list", gone_ms}; {"abandon", id, ...}.
-- Returns "list": seen_at_ms and bytes of each; "abandon": how many leases ended.
local head = decode(ARGV[2])
local verb, key = table.remove(head, 1), SHARD .. ':wk'
if verb == 'beat' then
  call('HSET', key, head[1], bytes('>I6', now_ms) .. ARGV[3])
  return 0
elseif verb == 'list' then
  local kept, reply = call('HGETALL', key), {}
  for at = 1, #kept, 2 do
    local seen_ms = from_bytes('>I6', kept[at + 1])
    if seen_ms > now_ms - head[1] then
      reply[#reply + 1] = seen_ms
      reply[#reply + 1] = sub(kept[at + 1], 7)
    else
      call('HDEL', key, kept[at])
    end
  end
  return reply
end
