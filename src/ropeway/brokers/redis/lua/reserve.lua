-- Handing out jobs in the long way: by all that may hold one back.
local passed_over -- the first queue whose suspect had to wait

local function is_suspect(row) return #(row.st.crashes or {}) >= CRASHES end

local function left()
  if asked.suspect then return 0 end
  return asked.limit - taken_n
end

local function close(row) row.open, row.at_place, row.at_parked = nil, nil, nil end

local function start(row) -- a row out of its place; it has no group of leases yet
  local st = row.st
  st.state, st.attempt, st.token = 'running', (st.attempt or 0) + 1, new_token()
  st.lease_until_ms, st.worker, st.started_at_ms, st.reason = asked.until_ms, asked.worker, now_ms, nil
end

local function begin_runs(q, run) -- entries {id, words or row} in order; untouched ones share a status
  local ids, pairs_of, shared = {}, {}, nil
  for at, one in ipairs(run) do ids[at] = one.id end
  local of_group = lease_group(q, ids, asked.until_ms)
  for _, one in ipairs(run) do
    local row = one.row
    if row then
      row.st.lg = of_group
      close(row)
      if row.traits.u then update_key(row) end
      if row.traits.o then update_line(row) end
      save(row)
      local at = #taken
      taken[at + 1], taken[at + 2], taken[at + 3] = one.id, row.words, row.packed
      note_run(q, 1, false)
      if row.st.rank then flow.serve_turns(q, priority_of(row), row.st.rank) end
    else
      shared = shared or started(of_group)
      pairs_of[#pairs_of + 1] = one.id
      pairs_of[#pairs_of + 1] = shared
      local at = #taken
      taken[at + 1], taken[at + 2] = one.id, one.words
      note_run(q, 1, true)
    end
  end
  if #pairs_of > 0 then many('HSET', q.key .. 's', pairs_of) end
  add_count(q, 'available', -#run)
  add_count(q, 'running', #run)
  if q.ruled then flow.queue_started(q, #run) end
end

local function met_again(q, id) -- its entry in a list of untouched ones was out of date
  local row = load(q, id)
  if row and row.st.old then
    row.st.old = nil
    save(row)
    add_stale(q, -1)
  end
end

local function take_untouched(q, priority, places, run) -- whether there were as many as asked for
  local ids = call('LPOP', q.key .. 'r' .. priority, places)
  if not ids then return false end
  local words, statuses = hash_values(q.key .. 'j', ids), hash_values(q.key .. 's', ids)
  for at, id in ipairs(ids) do
    if words[at] and not statuses[at] then
      run[#run + 1] = {id = id, words = words[at]}
    else
      met_again(q, id)
    end
  end
  return #ids == places
end

local function consider(q, row, run) -- "stop", or "again" when the order has changed
  local suspect = is_suspect(row)
  if suspect and (#run > 0 or taken_n > 0 or asked.beside) then
    passed_over = passed_over or q.name
    return 'stop'
  end
  local late = overdue(row)
  if late then
    bury_overdue(row, late)
    return row.traits.o and 'again' or nil -- the next of its line may come before all others now
  end
  local full = row.traits.li and RULED and flow.start_limits(row)
  if full then
    leave_ready(row)
    flow.park(row, full)
    save(row)
    asked.may_park = asked.may_park - 1
    return asked.may_park <= 0 and 'stop' or nil
  end
  open(row)
  start(row)
  run[#run + 1] = {id = row.id, row = row}
  if suspect then
    asked.suspect = true
    return 'stop'
  end
  return nil
end

local function comes_first(row, score, untouched) -- of the touched and the untouched at their heads
  if not untouched then return true end
  if score > 0 then return false end
  local due = due_of(row)
  return due < untouched.created or (due == untouched.created and row.seq < untouched.seq)
end

local function take_merged(q, priority, places, run, others) -- by the order of both; "stop" and "again" as `consider`
  local ids, scores, list = {}, {}, q.key .. 'r' .. priority
  for at = 1, #others, 2 do
    ids[#ids + 1], scores[#scores + 1] = sub(others[at], 13), tonumber(others[at + 1])
  end
  local touched, wanted = load_all(q, ids), places - #run
  local listed = call('LRANGE', list, 0, wanted - 1)
  local untouched = load_all(q, listed)
  local from, met, answer = 1, 1, nil
  while from <= #touched and #run < places and not answer do
    while met <= #listed and not (untouched[met] and untouched[met].fresh) do
      met_again(q, listed[met])
      met = met + 1
    end
    local other = untouched[met]
    if not other and #listed == wanted then break end -- there may be more of them: look again
    if comes_first(touched[from], scores[from], other) then
      answer = consider(q, touched[from], run)
      from = from + 1
    else
      run[#run + 1] = {id = other.id, words = other.words}
      rows[q.key .. other.id] = nil
      met = met + 1
    end
  end
  if met > 1 then call('LPOP', list, met - 1) end
  return answer
end

local function take(name, places) -- hand out up to so many jobs of one queue; how many
  local q, run = queue_of(name), {}
  promote(q, 2 * asked.limit)
  if q.ruled then places = min(places, flow.queue_room(q)) end
  local priority, answer = q.top, nil
  while priority >= 0 and #run < places and answer ~= 'stop' and asked.may_park > 0 do
    local wanted = min(places - #run, 1000)
    local others = call('ZRANGE', q.key .. 'e' .. priority, 0, wanted - 1, 'WITHSCORES')
    if #others > 0 then
      answer = take_merged(q, priority, places, run, others)
      if answer == 'again' then priority = q.top end
    elseif not take_untouched(q, priority, wanted, run) then
      priority = priority - 1
    end
  end
  if #run > 0 then begin_runs(q, run) end
  return #run
end

local function wake_parked(most) -- parked jobs that have room come back to their places
  local found, again = 0, {}
  for _, id in ipairs(call('ZRANGEBYSCORE', SHARD .. ':w', '-inf', now_ms, 'LIMIT', 0, most)) do
    if found >= most then break end
    local _, name = flow.parse_key(id)
    local wanted = min(flow.wakes_of(id, flow.rule_of('limit', name)), most - found)
    if wanted > 0 then
      for _, member in ipairs(call('ZRANGE', SHARD .. ':kp' .. id, 0, wanted - 1)) do
        local row = flow.parked_row(member)
        flow.unpark(row)
        if row.traits.o then
          row.open = true
          update_line(row)
          row.open = nil
        end
        push_ready(row)
        save(row)
        found = found + 1
      end
    end
    again[#again + 1] = id
  end
  for _, id in ipairs(again) do flow.note_wake(id) end
end

local function next_start_ms(names) -- until time alone lets a job of these queues start
  local at_ms
  local function earlier(other) if other and (not at_ms or other < at_ms) then at_ms = other end end
  for _, name in ipairs(names) do
    local q = queue_of(name)
    if not q.paused then
      earlier(next_due(q))
      if q.ruled then earlier(flow.queue_opens(q)) end
    end
  end
  if RULED then earlier(tonumber(call('ZRANGE', SHARD .. ':w', 0, 0, 'WITHSCORES')[2])) end
  return at_ms and max(0, at_ms - now_ms)
end

-- Smooth weighted round robin over batches, as ropeway.weighted.
local function deal(names, weights, credits, first, places, exhausted)
  local total, dealt, order = 0, {}, {}
  for at, name in ipairs(names) do
    if not exhausted[name] then
      total = total + weights[at]
      if name == first then table.insert(order, 1, name) else order[#order + 1] = name end
    end
  end
  if total == 0 then return order, dealt end
  local rounds, rest = floor(places / total), places % total
  for at, name in ipairs(names) do
    if not exhausted[name] then dealt[name] = rounds * weights[at] end
  end
  for _ = 1, rest do
    local richest
    for at, name in ipairs(names) do
      if not exhausted[name] then
        credits[at] = credits[at] + weights[at]
        if not richest or credits[at] > credits[richest] then richest = at end
      end
    end
    credits[richest] = credits[richest] - total
    dealt[names[richest]] = dealt[names[richest]] + 1
  end
  return order, dealt
end

local function take_weighted(names, weights, credits, first) -- the credits and whom to favour
  local exhausted, before = {}, {unpack(credits)}
  for _, name in ipairs(names) do exhausted[name] = queue_of(name).paused and true or nil end
  while left() > 0 do
    local order, dealt = deal(names, weights, credits, first, left(), exhausted)
    if #order == 0 then break end
    for _, name in ipairs(order) do
      local places = dealt[name]
      if places > 0 and places <= left() and take(name, places) < places then exhausted[name] = true end
    end
  end
  if taken_n == 0 then credits = before end
  if passed_over or asked.suspect then first = passed_over or false end
  return credits, first
end

local function reserve(request) -- {worker, limit, lease_ms, names, weights, credits, first, beside}
  local worker, limit, lease_ms, names, weights, credits, first = unpack(request)
  ask(worker, limit, lease_ms)
  asked.beside = request[8] -- the caller has others already: no suspect comes with them
  if RULED then wake_parked(2 * limit) end
  if weights then
    credits, first = take_weighted(names, weights, credits, first)
  else
    for _, name in ipairs(names) do
      if left() > 0 and not queue_of(name).paused then take(name, left()) end
    end
  end
  local cut_short, sleep_ms = asked.may_park <= 0, nil
  if taken_n == 0 and not cut_short then
    sleep_ms = next_start_ms(names)
    for _, name in ipairs(names) do
      if not queue_of(name).rings then call('DEL', queue_of(name).key .. 'bell') end
    end
  elseif left() <= 0 or cut_short or passed_over then
    for _, name in ipairs(names) do
      if not queue_of(name).paused and count_of(queue_of(name), 'available') > 0 then ring(queue_of(name)) end
    end
  end
  return meta_of(cut_short, sleep_ms, credits, first or passed_over)
end
