-- The words of the last minute. head: {after or false, kept_ms}; false: only the newest.
-- Returns for each: seq, the client's bytes.
local after, kept_ms = unpack(decode(ARGV[2]))
local stream, reply = SHARD .. ':sg', {}
local found
if after then
  found = call('XRANGE', stream, '(' .. format('%.0f', after) .. '-0', '+')
else
  found = call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
end
for _, entry in ipairs(found) do
  if tonumber(entry[2][2]) >= mono_ms - kept_ms then
    reply[#reply + 1] = tonumber(string.match(entry[1], '^%d+'))
    reply[#reply + 1] = entry[2][4]
  end
end
return reply
