local promoted, expired, buried, cascaded, pruned = 0, 0, 0, 0, 0

for _, q in ipairs(due_queues(':ad', 'd', now_ms)) do
  promoted = promoted + promote(q, most_promoted - promoted)
  note(':ad', 'd', q, first_of(q.key .. 'd'))
end

local function expire_group(q, of_group) -- whether all of it was looked at
  local list = q.key .. 'g' .. of_group
  while expired < most_expired do
    local ids = call('LPOP', list, min(most_expired - expired, 500))
    if not ids then
      call('ZREM', q.key .. 'l', of_group)
      return true
    end
    for _, row in ipairs(load_all(q, ids)) do
      if row and row.st.state == 'running' and row.st.lg == tonumber(of_group) then
        lease_expired(row)
        drop_unretained(row)
        expired = expired + 1
      end
    end
  end
  return false
end

for _, q in ipairs(due_queues(':al', 'l', mono_ms)) do
  while expired < most_expired do
    local of_group = call('ZRANGEBYSCORE', q.key .. 'l', '-inf', mono_ms, 'LIMIT', 0, 1)[1]
    if not of_group or not expire_group(q, of_group) then break end
  end
  note(':al', 'l', q, first_of(q.key .. 'l'))
end

for _, q in ipairs(due_queues(':aw', 'x', now_ms)) do
  for _, member in ipairs(call('ZRANGEBYSCORE', q.key .. 'x', '-inf', now_ms, 'LIMIT', 0, most_buried - buried)) do
    local row = load(q, id_in(member))
    bury_overdue(row, overdue(row))
    buried = buried + 1
  end
  note(':aw', 'x', q, first_of(q.key .. 'x'))
end

local function cascade_first() -- tell the children of the first failed parent: whether all were
  local kept = call('LINDEX', SHARD .. ':fq', 0)
  local queue, id, is_gone = unpack(decode(kept))
  local parent = not is_gone and load(queue_of(queue), id)
  local state = parent and parent.st.state
  if is_gone or not parent or state == 'dead' or state == 'cancelled' then
    for _, child in ipairs(child_rows(id)) do
      if child.st.state == 'pending' and waits_for(child, id) then
        if cascaded >= most_cascaded then return false end
        if parent_failed(child, id) then cascaded = cascaded + 1 end
      end
    end
  end
  if is_gone or not parent or state == 'dead' or state == 'cancelled' then tell_abroad(queue, id, 'failed') end
  call('LPOP', SHARD .. ':fq')
  return true
end

while call('EXISTS', SHARD .. ':fq') == 1 do
  if not cascade_first() then break end
end

for _, q in ipairs(due_queues(':aw', 'p', now_ms)) do
  while pruned < most_pruned do
    local member = call('ZRANGEBYSCORE', q.key .. 'p', '-inf', now_ms, 'LIMIT', 0, 1)[1]
    if not member then break end
    local row = load(q, id_in(member))
    if is_needed(row) then
      keep_for_now(row)
    else
      forget(row)
      pruned = pruned + 1
    end
  end
  note(':aw', 'p', q, first_of(q.key .. 'p'))
end

for _, q in ipairs(due_queues(':aw', 'f', now_ms)) do
  if pruned < most_pruned then pruned = pruned + prune_usual(q, now_ms - RETENTION.completed, most_pruned - pruned) end
  local first = call('LINDEX', q.key .. 'f', 0)
  local row = first and load(q, first)
  note(':aw', 'f', q, first and ((row and row.st.finished_at_ms or now_ms) + RETENTION.completed))
end

local function prune_surplus(q)
  while pruned < most_pruned do
    local surplus = count_of(q, 'completed') - KEPT
    if surplus <= 0 then return end
    local other = call('ZRANGE', q.key .. 'c', 0, 0, 'WITHSCORES')
    local first = call('LINDEX', q.key .. 'f', 0)
    local usual = first and load(q, first)
    if other[1] and (not usual or tonumber(other[2]) <= usual.st.finished_at_ms) then
      local row = load(q, id_in(other[1]))
      call('ZREM', q.key .. 'c', other[1])
      if not is_needed(row) then
        forget(row)
        pruned = pruned + 1
      end
    elseif usual then
      local until_ms = other[1] and tonumber(other[2]) or now_ms
      local n = prune_usual(q, until_ms, min(surplus, most_pruned - pruned))
      if n == 0 then return end
      pruned = pruned + n
    else
      return
    end
  end
end

for _, q in ipairs(due_queues(':aw', 'k', now_ms)) do
  prune_surplus(q)
  if pruned < most_pruned then note(':aw', 'k', q, nil) end
end

if RULED then flow.forget_rates(most_pruned) end
finish()
sooner(':ad', 'd', now_ms)
sooner(':al', 'l', mono_ms)
return encode({promoted, expired, buried, cascaded, pruned, next_ms})
