-- Settle, then hand out. head: {{segment, ...}, reserve's head}; see settle.lua and reserve.lua.
-- Returns the answers and the meta of reserve in MessagePack, then as the script of reserve.
local segments, request = unpack(decode(ARGV[2]))
local answers = settle_short(segments, ARGV, 3)

local function exchanged(meta)
  local reply = leases(meta)
  table.insert(reply, 1, encode(answers))
  return reply
end

if answers then
  local meta = reserve_short(request)
  if meta then
    finish()
    return exchanged(meta)
  end
end
