-- A job's stream. head: {id, queue or false, after, at most}. Returns, in MessagePack,
-- {{seq, at_ms, kind, data}, ...}.
local id, queue, after, most = unpack(decode(ARGV[2]))
local row, reply = find(id, queue or nil), {}
for _, kept in ipairs(row and call('LRANGE', row.q.key .. 'ev' .. row.id, 0, -1) or {}) do
  local entry = decode(kept)
  if entry[1] > after and #reply < most then reply[#reply + 1] = entry end
end
return encode(reply)
