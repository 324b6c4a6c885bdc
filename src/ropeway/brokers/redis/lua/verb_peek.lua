-- The available jobs of a queue in the order of reserve. head: {queue, at most}.
-- Returns for each: id, words, status.
local name, most = unpack(decode(ARGV[2]))
local q, reply = queue_of(name), {}
for priority = q.top, 0, -1 do
  local left = most - #reply / 3
  if left <= 0 then break end
  local found = {}
  local ids = {}
  for at, member in ipairs(call('ZRANGE', q.key .. 'e' .. priority, 0, left - 1)) do ids[at] = sub(member, 13) end
  for _, row in ipairs(load_all(q, ids)) do found[#found + 1] = row end
  for _, row in ipairs(load_all(q, call('LRANGE', q.key .. 'r' .. priority, 0, left - 1))) do
    if row and row.fresh then found[#found + 1] = row end
  end
  table.sort(found, function(a, b)
    local rank_a, rank_b = a.st.rank or 0, b.st.rank or 0
    if rank_a ~= rank_b then return rank_a < rank_b end
    local due_a, due_b = due_of(a), due_of(b)
    if due_a ~= due_b then return due_a < due_b end
    return a.seq < b.seq
  end)
  for at = 1, min(left, #found) do
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3] = found[at].id, found[at].words, found[at].packed or ''
  end
end
return reply
