-- Wait for ends. head: {waiter, add, id, queue or false, ...}; `add` false: stop waiting.
-- Returns for each: "none", "waits" or "final", then queue, id, words and status of those that are final.
local head, reply = decode(ARGV[2]), {}
local waiter, is_new = table.remove(head, 1), table.remove(head, 1)
for at = 1, #head, 2 do
  local row, n = find(head[at], head[at + 1] or nil), #reply
  local is_final = row and FINAL[row.st.state]
  reply[n + 1] = not row and 'none' or (is_final and 'final' or 'waits')
  reply[n + 2], reply[n + 3] = row and row.q.name or '', head[at]
  reply[n + 4], reply[n + 5] = is_final and row.words or '', is_final and row.packed or ''
  if row and not is_final then
    local field = encode({row.q.name, row.id})
    local kept, waiters = call('HGET', SHARD .. ':wt', field), {}
    for _, other in ipairs(kept and decode(kept) or {}) do
      if other ~= waiter then waiters[#waiters + 1] = other end
    end
    if is_new then waiters[#waiters + 1] = waiter end
    if #waiters > 0 then
      call('HSET', SHARD .. ':wt', field, encode(waiters))
    else
      call('HDEL', SHARD .. ':wt', field)
    end
  end
end
return reply
