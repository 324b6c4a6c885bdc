-- Operate one queue. head: {"pause" or "resume" or "purge", queue, states, most}.
-- `states` {name = true}; purge removes at most `most` jobs of one call that are not running.
-- Returns how many were removed.
local verb, name, states, most = unpack(decode(ARGV[2]))
local q = queue_of(name)
local removed = 0
if verb == 'pause' then
  call('HSET', q.key .. 'h', 'paused', '1')
  call('SADD', SHARD .. ':queues', name)
elseif verb == 'resume' then
  call('HDEL', q.key .. 'h', 'paused')
  ring(q)
  q.batch_rings = true
else
  local function remove(ids)
    for _, row in ipairs(load_all(q, ids)) do
      if removed >= most then return end
      if row and not row.removed and row.st.state ~= 'running' and states[row.st.state] then
        forget(row)
        removed = removed + 1
      end
    end
  end
  if states.completed then removed = prune_usual(q, now_ms, most, true) end
  for priority = q.top, 0, -1 do
    if states.available and removed < most then removed = removed + purge_untouched(q, priority, most - removed) end
  end
  local moved = {}
  for at, member in ipairs(call('ZRANGE', q.key .. 'pm', 0, -1)) do moved[at] = id_in(member) end
  remove(moved)
  for _, page in ipairs(call('ZREVRANGE', q.key .. 'pz', 0, -1)) do
    if removed >= most then break end
    remove(call('LRANGE', q.key .. 'pg' .. page, 0, -1))
  end
end
finish()
return removed
