-- Settle, then hand out. head: {{segment, ...}, reserve's head}; see settle.lua and reserve.lua.
-- Returns the answers and the meta of reserve in MessagePack, then as verb_reserve.lua.
local head = decode(ARGV[2])
local answers = settle(head[1], ARGV, 3)
local meta = reserve(head[2])
finish()
local reply = leases(meta)
table.insert(reply, 1, encode(answers))
return reply
