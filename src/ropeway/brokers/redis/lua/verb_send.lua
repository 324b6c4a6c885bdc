-- Keep a word to workers for a minute. head: {kept_ms}; ARGV[3]: the signal, the client's own bytes.
-- Returns its seq.
local stream = SHARD .. ':sg'
local n = call('HINCRBY', SHARD .. ':m', 'signal', 1)
call('XADD', stream, n .. '-0', 'at', mono_ms, 'signal', ARGV[3])
while true do
  local first = call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if tonumber(first[2][2]) >= mono_ms - decode(ARGV[2])[1] then break end
  call('XDEL', stream, first[1])
end
return n
