-- Changing a row: `open` takes it out of its place, the caller changes its status (and words, and
-- queue), `put` gives it the place that follows. All indexes are true between scripts.

-- ------------------------------------------------------------------ unique keys

local function window_end(u, created)
  if (u.pp or 0) > 0 then return (floor(created / u.pp) + 1) * u.pp end
  return created + (u.w or 0)
end

local function holds_key(row, state, at_ms)
  local u = row.traits.u
  if not u then return false end
  for _, other in ipairs(u.d) do
    if other == state then return true end
  end
  if u.r and (state == 'dead' or state == 'cancelled') then return false end
  return at_ms < window_end(u, row.created)
end

local function holder_of(q, key)
  local id = call('HGET', q.key .. 'u', key)
  local row = id and load(q, id)
  if row and row.traits.u and row.traits.u.k == key and holds_key(row, row.st.state, now_ms) then return row end
  if id then call('HDEL', q.key .. 'u', key) end
  return nil
end

local function leave_key(row, q, traits)
  if traits.u and call('HGET', q.key .. 'u', traits.u.k) == row.id then call('HDEL', q.key .. 'u', traits.u.k) end
end

local function update_key(row)
  if not holds_key(row, row.st.state, now_ms) then
    leave_key(row, row.q, row.traits)
  elseif not holder_of(row.q, row.traits.u.k) then
    call('HSET', row.q.key .. 'u', row.traits.u.k, row.id)
  end
end

-- ------------------------------------------------------------------ ready jobs

local function raise_top(q, priority) -- the highest priority that a waiting job has had here
  if priority > q.top then
    q.top = priority
    call('HSET', q.key .. 'h', 'top', priority)
  end
end

local function push_ready(row)
  local q, st, priority = row.q, row.st, priority_of(row)
  if st.blocked_on then return end
  call('ZADD', q.key .. 'e' .. priority, st.rank or 0, place_in(row))
  raise_top(q, priority)
  ring(q)
end

local function leave_ready(row)
  if row.fresh then
    row.st.old, row.fresh = priority_of(row), nil -- its id stays in that list until somebody meets it
    add_stale(row.q, 1)
  elseif not row.st.blocked_on then
    call('ZREM', row.q.key .. 'e' .. priority_of(row), place_in(row))
  end
end

local function leave_list(row) -- its entry there, which was out of date, goes
  call('LREM', row.q.key .. 'r' .. row.st.old, 1, row.id)
  row.st.old = nil
  add_stale(row.q, -1)
end

-- ------------------------------------------------------------------ ordering keys

local function set_blocked(row, on)
  local st = row.st
  if st.pk or st.blocked_on == on then return end
  local is_placed = st.state == 'available' and not row.open
  if is_placed and not st.blocked_on then leave_ready(row) end
  st.blocked_on = on
  if row.open then return end
  save(row)
  if is_placed and not on then push_ready(row) end
end

-- Only the head of a line may run: its unfinished job with the lowest seq, or the one that runs.
local function choose_head(q, key)
  local line = q.key .. 'ol' .. key
  local old_id = call('HGET', q.key .. 'oh', key)
  local old = old_id and load(q, old_id)
  if old and old.st.state == 'running' then return end
  local first = call('ZRANGE', line, 0, 0)[1]
  if not first then
    call('HDEL', q.key .. 'oh', key)
    return
  end
  if first == old_id then
    set_blocked(old, nil)
    return
  end
  call('HSET', q.key .. 'oh', key, first)
  if old and old.traits.o == key and not FINAL[old.st.state] then set_blocked(old, 'ordering:' .. key) end
  set_blocked(load(q, first), nil)
end

local function update_line(row)
  local q, key = row.q, row.traits.o
  if FINAL[row.st.state] then
    call('ZREM', q.key .. 'ol' .. key, row.id)
    set_blocked(row, nil)
  else
    call('ZADD', q.key .. 'ol' .. key, row.seq, row.id)
    local head = call('HGET', q.key .. 'oh', key)
    if head and head ~= row.id then set_blocked(row, 'ordering:' .. key) end
  end
  choose_head(q, key)
end

local function leave_line(row, q, key)
  call('ZREM', q.key .. 'ol' .. key, row.id)
  if call('HGET', q.key .. 'oh', key) == row.id then call('HDEL', q.key .. 'oh', key) end
  choose_head(q, key)
  set_blocked(row, nil)
end

-- ------------------------------------------------------------------ parents and children

local children_of, child_rows, set_children, add_child, disown
do -- parents may have thousands of children: the list is read once and written once by a script
  local function key_of(queue, id) return #queue .. ':' .. queue .. id end

  local function places_of(known) -- where each child is in the list
    if not known.places then
      known.places = {}
      for at = 1, #known.refs, 2 do known.places[key_of(known.refs[at], known.refs[at + 1])] = at end
    end
    return known.places
  end

  local function known_of(id)
    local known = kin[id]
    if not known then
      local kept = has_kin and call('HGET', SHARD .. ':ch', id)
      known = {refs = kept and decode(kept) or {}}
      kin[id] = known
    end
    return known
  end

  at_end[#at_end + 1] = function()
    for id, known in pairs(kin) do
      if not known.is_changed then
        -- it is kept as it is
      elseif #known.refs == 0 then
        call('HDEL', SHARD .. ':ch', id)
      else
        call('HSET', SHARD .. ':ch', id, encode(known.refs))
      end
    end
  end

  function children_of(id) return known_of(id).refs end -- {queue, id, queue, id, ...}, not in order

  function child_rows(id) -- in the order of seq
    local refs, found = children_of(id), {}
    for at = 1, #refs, 2 do found[#found + 1] = load(queue_of(refs[at]), refs[at + 1]) end
    table.sort(found, function(a, b) return a.seq < b.seq end)
    return found
  end

  function set_children(id, refs)
    kin[id] = {refs = refs, is_changed = true}
    has_kin = has_kin or #refs > 0
  end

  function add_child(parent_id, queue, id)
    local known = known_of(parent_id)
    local refs, places, key = known.refs, places_of(known), key_of(queue, id)
    if places[key] then return end
    places[key] = #refs + 1
    refs[#refs + 1], refs[#refs + 2] = queue, id
    known.is_changed, has_kin = true, true
  end

  function disown(parent_id, queue, id) -- the last one takes its place
    local known = known_of(parent_id)
    local refs, places, key = known.refs, places_of(known), key_of(queue, id)
    local at, last = places[key], #known.refs - 1
    if not at then return end
    refs[at], refs[at + 1] = refs[last], refs[last + 1]
    places[key_of(refs[at], refs[at + 1])] = at
    refs[last], refs[last + 1], places[key] = nil, nil, nil
    known.is_changed = true
  end
end

local function adopt(parent_id, child)
  local st = child.st
  if not child.kin_of then
    child.kin_of = {}
    for _, id in ipairs(st.ki or {}) do child.kin_of[id] = true end
  end
  if child.kin_of[parent_id] then return end
  child.kin_of[parent_id], st.ki = true, st.ki or {}
  st.ki[#st.ki + 1] = parent_id
  add_child(parent_id, child.q.name, child.id)
end

local function is_needed(row) -- an unfinished job still depends on this record
  if not has_kin then return false end
  local refs = children_of(row.id)
  for at = 1, #refs, 2 do
    local child = load(queue_of(refs[at]), refs[at + 1])
    if child and not FINAL[child.st.state] then return true end
    if not child and IN_CLUSTER and refs[at] ~= row.q.name then return true end -- until it is asked
  end
  return false
end

local function waits_for(row, parent_id)
  for at, id in ipairs(row.st.waiting_on or {}) do
    if id == parent_id then return at end
  end
  return nil
end

-- In a cluster a child may be in another shard. What it must be told goes to the outbox in this
-- step; whoever finds it there delivers it, as often as it takes: see `cluster/kin.py`.
local function post(...)
  call('RPUSH', SHARD .. ':ob', encode({call('HINCRBY', SHARD .. ':m', 'posted', 1), ...}))
end

local function tell_abroad(queue, id, what)
  if not IN_CLUSTER or not has_kin then return end
  local refs = children_of(id)
  for at = 1, #refs, 2 do
    if refs[at] ~= queue then post(what, refs[at], refs[at + 1], id) end
  end
end

local function tell_children(row) -- later, by `cascade`: this parent has failed or is gone
  if has_kin and #children_of(row.id) > 0 then
    call('RPUSH', SHARD .. ':fq', encode({row.q.name, row.id, row.removed or false}))
  end
end

-- ------------------------------------------------------------------ those who wait for an end

local function tell_waiters(name, id, words, status) -- those who wait for a job under this name
  if not some_wait then return nil end
  local field = encode({name, id})
  local waiters = call('HGET', SHARD .. ':wt', field)
  if not waiters then return nil end
  call('HDEL', SHARD .. ':wt', field)
  for _, waiter in ipairs(decode(waiters)) do
    local list = SHARD .. ':wl' .. waiter
    call('RPUSH', list, name, id, words, status)
    call('RPUSH', list .. ':bell', '1')
    call('PEXPIRE', list, 60000)
    call('PEXPIRE', list .. ':bell', 60000)
  end
  return waiters
end

local function answer(row, is_gone)
  tell_waiters(row.q.name, row.id, is_gone and '' or row.words, is_gone and '' or row.packed)
end

local function answer_moved(row, from) -- they wait on, for the job by its new name
  local waiters = tell_waiters(from, row.id, '', row.q.name)
  if waiters then call('HSET', SHARD .. ':wt', encode({row.q.name, row.id}), waiters) end
end

-- ------------------------------------------------------------------ leases and ends

local function prune_at(row)
  local st, traits = row.st, row.traits
  local keep_ms = RETENTION[st.state]
  if traits.rt and st.state ~= 'dead' then keep_ms = traits.rt end
  local at_ms = st.finished_at_ms + keep_ms
  if traits.u and holds_key(row, st.state, st.finished_at_ms) then
    at_ms = max(at_ms, window_end(traits.u, row.created))
  end
  return at_ms
end

local function is_usual(row) -- its record goes in the order in which jobs are completed
  return row.st.state == 'completed' and not row.traits.rt and not row.traits.u
end

local function place_final(row)
  local q, st = row.q, row.st
  if is_usual(row) then
    completed_usually(q, {row.id})
  else
    local at_ms = prune_at(row)
    call('ZADD', q.key .. 'p', at_ms, seq_in(row))
    hear(':aw', 'p', q, at_ms)
    if st.state == 'completed' then call('ZADD', q.key .. 'c', st.finished_at_ms, seq_in(row)) end
  end
  if st.state ~= 'completed' then tell_children(row) end
end

local function leave_final(row)
  local q = row.q
  if call('ZREM', q.key .. 'p', seq_in(row)) == 0 then call('LREM', q.key .. 'f', 1, row.id) end
  call('ZREM', q.key .. 'c', seq_in(row))
end

-- ------------------------------------------------------------------ all of a change

local function too_late_at(traits)
  if traits.ea and traits.da then return min(traits.ea, traits.da) end
  return traits.ea or traits.da
end

local function overdue(row)
  local traits = row.traits
  if traits.ea and now_ms >= traits.ea then return 'expired' end
  if traits.da and now_ms >= traits.da then return 'deadline' end
  return nil
end

local function open(row)
  local q, st, state = row.q, row.st, row.st.state
  row.was, row.old_traits, row.old_q, row.open = state, row.traits, q, true
  row.at_place, row.at_parked = place_in(row), st.pk and flow.parked_in(row) or nil
  if state == 'available' then
    leave_ready(row)
  elseif state == 'scheduled' or state == 'retryable' then
    call('ZREM', q.key .. 'd', seq_in(row))
  elseif state == 'running' then
    lease_ended(q, st.lg)
    st.lg = nil
  elseif FINAL[state] then
    leave_final(row)
  end
  if WAITING[state] and too_late_at(row.traits) then call('ZREM', q.key .. 'x', seq_in(row)) end
end

local function same_turn(row)
  local old, new = row.old_traits, row.traits
  return row.old_q == row.q and (old.p or 0) == (new.p or 0) and old.fk == new.fk and (old.fw or 1) == (new.fw or 1)
end

local function note_droppable(row)
  if row.q.drop then call('ZADD', row.q.key .. 'od', priority_of(row), seq_in(row)) end
end

local function ending_of(st)
  if st.state == 'completed' then return 'success' end
  if st.state == 'retryable' or (st.state == 'dead' and st.reason ~= 'crashed_worker') then return 'failure' end
  return 'other'
end

local function follow(row)
  local st, was, traits, old = row.st, row.was, row.traits, row.old_traits
  local reworded = old ~= traits or row.old_q ~= row.q
  if st.pk and (st.state ~= 'available' or reworded) then flow.unpark(row) end
  if was == 'running' and st.state ~= 'running' then
    local ending = ending_of(st)
    if traits.li then flow.end_limits(row, ending) end
    if row.q.ruled then flow.queue_ended(row.q, ending) end
  end
  local moved = reworded and not same_turn(row)
  if moved or was == nil or (FINAL[was] and not FINAL[st.state]) then note_droppable(row) end
  if was == 'available' and (moved or not KEPT_PLACE[st.state]) then flow.leave_turns(row.old_q, old) end
  if st.state == 'available' and (moved or not KEPT_PLACE[was]) then flow.join_turns(row) end
  if old.gk then flow.leave_batch(row.old_q, row, old) end
  if traits.gk and st.state == 'available' then flow.join_batch(row) end
end

local function put(row)
  local q, st, traits = row.q, row.st, row.traits
  local state, was = st.state, row.was
  if was then
    if row.old_traits ~= traits or row.old_q ~= q then
      leave_key(row, row.old_q, row.old_traits)
      if row.old_traits.o and (row.old_q ~= q or row.old_traits.o ~= traits.o) then
        leave_line(row, row.old_q, row.old_traits.o)
      end
    end
    add_count(row.old_q, was, -1)
  end
  add_count(q, state, 1)
  follow(row)
  if traits.u then update_key(row) end
  if traits.o then update_line(row) end
  if WAITING[state] and too_late_at(traits) then
    local at_ms = too_late_at(traits)
    call('ZADD', q.key .. 'x', at_ms, seq_in(row))
    hear(':aw', 'x', q, at_ms)
  end
  if state == 'available' then
    push_ready(row)
  elseif state == 'scheduled' or state == 'retryable' then
    local at_ms = due_of(row)
    raise_top(q, priority_of(row)) -- here already: see `promote_light`
    call('ZADD', q.key .. 'd', at_ms, seq_in(row))
    local first = call('ZRANGE', q.key .. 'd', 0, 0)[1]
    if first == seq_in(row) then
      hear(':ad', 'd', q, at_ms)
      ring(q) -- who sleeps until a later one must look again
      if traits.gk then q.batch_rings = true end
    end
  end
  row.open, row.at_place, row.at_parked = nil, nil, nil
  save(row)
  if FINAL[state] then
    place_final(row)
    answer(row)
  end
end

local function forget(row) -- a row that is not running, opened or not, goes with all its traces
  local q, st = row.q, row.st
  if not row.open then open(row) end
  add_count(q, row.was, -1)
  leave_key(row, q, row.traits)
  if row.traits.o then leave_line(row, q, row.traits.o) end
  if st.pk then flow.unpark(row) end
  if row.was == 'available' then flow.leave_turns(q, row.traits) end
  if row.traits.gk then flow.leave_batch(q, row, row.traits) end
  row.removed = true
  if row.was ~= 'completed' and not row.moves then tell_children(row) end
  for _, parent_id in ipairs(st.ki or {}) do disown(parent_id, q.name, row.id) end
  if st.old then leave_list(row) end
  if st.evb then call('DEL', q.key .. 'ev' .. row.id) end
  if q.drop then call('ZREM', q.key .. 'od', seq_in(row)) end
  unlist(q, row)
  call('HDEL', q.key .. 'j', row.id)
  call('HDEL', q.key .. 's', row.id)
  if not row.moves then answer(row, true) end
  rows[q.key .. row.id] = false
end

local function drop_unretained(row) -- a retention of 0 ends the record with the job
  if FINAL[row.st.state] and prune_at(row) <= now_ms and not is_needed(row) then forget(row) end
end

local function wait_for(child, parent_id) -- a pending job waits for one more
  adopt(parent_id, child)
  if not waits_for(child, parent_id) then
    child.st.waiting_on = child.st.waiting_on or {}
    table.insert(child.st.waiting_on, parent_id)
  end
  save(child)
end

-- ------------------------------------------------------------------ steps of the life of a job

local parent_completed
do
  local unsaved = {} -- rows whose status is written at the end of the script

  at_end[#at_end + 1] = function()
    for row in pairs(unsaved) do
      if not row.removed then save(row) end
    end
  end

  function parent_completed(child, parent_id)
    local st = child.st
    if #st.waiting_on > 1 then -- nothing else follows from it
      table.remove(st.waiting_on, waits_for(child, parent_id))
      unsaved[child] = true
      return
    end
    open(child)
    table.remove(st.waiting_on, waits_for(child, parent_id))
    if #st.waiting_on == 0 then
      st.waiting_on, st.due = nil, max(due_of(child), now_ms)
      st.state = st.due > now_ms and 'scheduled' or 'available'
    end
    put(child)
  end
end

local function free_children(parent)
  if not has_kin then return end
  tell_abroad(parent.q.name, parent.id, 'completed')
  for _, child in ipairs(child_rows(parent.id)) do
    if child.st.state == 'pending' and waits_for(child, parent.id) then parent_completed(child, parent.id) end
  end
end

local function bury_overdue(row, reason)
  open(row)
  row.st.state, row.st.finished_at_ms, row.st.reason = 'dead', now_ms, reason
  put(row)
end

local function promote(q, limit) -- make due jobs available; how many
  local n, others = promote_light(q, limit)
  for _, row in ipairs(load_all(q, others)) do
    open(row)
    row.st.state = 'available'
    put(row)
  end
  return n + #others
end

local CRASH_WINDOW_MS, CRASHES = 86400000, 2

local function lease_expired(row)
  local st, recent = row.st, {}
  for _, one in ipairs(st.crashes or {}) do
    if one[2] > now_ms - CRASH_WINDOW_MS then recent[#recent + 1] = one end
  end
  recent[#recent + 1] = {st.token, now_ms}
  open(row)
  st.crashes = recent
  if #recent > (row.traits.cm or 3) then
    st.state, st.finished_at_ms, st.reason = 'dead', now_ms, 'crashed_worker'
  elseif st.cancel_requested then
    st.state, st.finished_at_ms = 'cancelled', now_ms
  else
    st.state, st.attempt = 'available', st.attempt - 1
  end
  put(row)
end
