-- Add lines to the streams of running jobs. head: {kept, kept_bytes, {queue, id, token, kind, at_ms}, ...};
-- then the data of each. Returns, in MessagePack, {answer, ...}: 0 ok, 1 lost.
local head = decode(ARGV[2])
local kept, kept_bytes = table.remove(head, 1), table.remove(head, 1)
local reply = {}
for at, entry in ipairs(head) do
  local q = queue_of(entry[1])
  local row = held(q, entry[2], entry[3])
  reply[at] = row and 0 or 1
  if row then
    local list, data = q.key .. 'ev' .. row.id, ARGV[2 + at]
    local n = call('HINCRBY', SHARD .. ':m', 'event', 1)
    local size = (row.st.evb or 0) + #data
    local length = call('RPUSH', list, encode({n, entry[5], entry[4], data}))
    while length > kept or size > kept_bytes do
      size = size - #decode(call('LPOP', list))[4]
      length = length - 1
    end
    row.st.evb = length > 0 and size or nil -- else there is no list
    save(row)
  end
end
finish()
return encode(reply)
