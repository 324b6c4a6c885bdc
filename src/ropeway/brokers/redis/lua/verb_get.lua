-- Records by id. head: {id, queue or false, ...}.
-- Returns for each queue, words and status ("" where there is none), all "" without a record.
local head, reply = decode(ARGV[2]), {}
for at = 1, #head, 2 do
  local row = find(head[at], head[at + 1] or nil)
  local n = #reply
  reply[n + 1] = row and row.q.name or ''
  reply[n + 2] = row and row.words or ''
  reply[n + 3] = row and row.packed or ''
end
return reply
