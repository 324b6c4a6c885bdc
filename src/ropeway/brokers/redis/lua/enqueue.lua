-- Storing jobs in the long way. Traits that are relative become absolute here: dl delay,
-- ex expires_after, dx deadline_after.

local ANSWER = {DUPLICATE_ID = 1, DUPLICATE_KEY = 2, REPLACED = 3, FULL = 4, DROPPED = 5}

local function admit(traits) -- when it is due, and its state but for parents
  if traits.dl then traits.sa, traits.dl = now_ms + begun_ms + traits.dl, nil end
  if traits.ex then traits.ea, traits.ex = now_ms + traits.ex, nil end
  if traits.dx then traits.da, traits.dx = now_ms + traits.dx, nil end
  if traits.sa and traits.sa > now_ms then return traits.sa, 'scheduled' end
  return now_ms, 'available'
end

local function edit(row, traits, task, rest) -- new words for a waiting job
  local old, st = row.traits, row.st
  local u = traits.u
  if traits.dl and u and u.dm then traits.dl = min(traits.dl, max(0, row.created + u.dm - now_ms)) end
  local due, state = admit(traits)
  traits.pa, traits.ub, traits.rv = old.pa, old.ub, (old.rv or 0) + 1
  open(row)
  row.traits = traits
  save_words(row, task, rest)
  if traits.sa ~= old.sa and not (st.state == 'retryable' and state == 'available') then
    st.state, st.due = st.waiting_on and 'pending' or state, due
  end
  put(row)
end

local function droppable(q) -- the oldest of the lowest priority that was never started
  local index = q.key .. 'od'
  if not q.drop then
    q.drop = '1'
    call('HSET', q.key .. 'h', 'drop', '1')
    for _, page in ipairs(call('ZRANGE', q.key .. 'pz', 0, -1)) do
      for _, row in ipairs(load_all(q, call('LRANGE', q.key .. 'pg' .. page, 0, -1))) do
        if row and row.q == q and WAITING[row.st.state] then note_droppable(row) end
      end
    end
    for _, member in ipairs(call('ZRANGE', q.key .. 'pm', 0, -1)) do
      local row = load(q, id_in(member))
      if row and WAITING[row.st.state] then note_droppable(row) end
    end
  end
  local skipped, found = 0, nil
  while not found do
    local first = call('ZRANGE', index, skipped, skipped)[1]
    if not first then return nil end
    local row = load(q, id_in(first))
    if not row or row.seq ~= from_bytes('>I6', first) or not WAITING[row.st.state] or (row.st.token or 0) ~= 0 then
      call('ZREM', index, first)
    elseif row.traits.ub or is_needed(row) then
      skipped = skipped + 1
    else
      call('ZREM', index, first)
      found = row
    end
  end
  return found
end

local function refusal(q, id) -- where the queue has no room: answer, id, estimate in ms
  local rule = flow.queue_rule(q)
  if not rule or not rule.max_length then return nil end
  local length = count_of(q, 'pending') + count_of(q, 'scheduled') + count_of(q, 'available')
  if length < rule.max_length then return nil end
  local row = rule.on_full == 'drop_oldest' and droppable(q)
  if row then
    open(row)
    row.st.state, row.st.finished_at_ms, row.st.reason = 'cancelled', now_ms, 'dropped'
    put(row)
    drop_unretained(row)
    return nil
  end
  if rule.on_full == 'drop_new' then return {ANSWER.DROPPED, id, false} end
  local kept = call('HMGET', q.key .. 'h', 'pace', 'pace_since', 'pace_at')
  local wait_ms = false
  local left = tonumber(kept[1] or 0) * math.exp((tonumber(kept[3] or 0) - now_ms) / 30000)
  if left >= 0.05 then
    local seen_ms = 30000 * (1 - math.exp((tonumber(kept[2]) - now_ms) / 30000))
    wait_ms = max(1, ceil((length - rule.max_length + 1) * max(seen_ms, 1) / left))
  end
  return {ANSWER.FULL, id, wait_ms}
end

local function is_completed(id)
  local row = find(id)
  return row ~= nil and row.st.state == 'completed'
end

local function add(q, id, traits, task, rest)
  seq = seq + 1
  local due, state = admit(traits)
  local row = {q = q, id = id, seq = seq, created = now_ms, traits = traits, open = true}
  row.st = {state = state, due = due ~= now_ms and due or nil}
  row.old_traits, row.old_q = traits, q
  rows[q.key .. id] = row
  save_words(row, task, rest)
  list_ids(q, seq, {id})
  local met = {}
  for _, parent_id in ipairs(traits.pa or {}) do
    if not met[parent_id] and not is_completed(parent_id) then
      row.st.waiting_on = row.st.waiting_on or {}
      table.insert(row.st.waiting_on, parent_id)
      met[parent_id] = true
      row.st.state = 'pending'
    end
  end
  for _, parent_id in ipairs(traits.pa or {}) do adopt(parent_id, row) end
  put(row)
  for _, parent_id in ipairs(row.st.waiting_on or {}) do
    local parent = find(parent_id)
    if parent and (parent.st.state == 'dead' or parent.st.state == 'cancelled') then tell_children(parent) end
    if not parent and IN_CLUSTER then call('HSET', SHARD .. ':fw', encode({id, parent_id}), now_ms) end
  end
  for at = 1, traits.ub and #traits.ub or 0, 2 do
    local child = find(traits.ub[at + 1], traits.ub[at] or nil)
    if child and child.st.state == 'pending' then
      wait_for(child, id)
    end
  end
end

local function enqueue_one(q, id, traits, task, rest, is_bounded) -- nil when it was stored
  if load(q, id) then return {ANSWER.DUPLICATE_ID, id, false} end
  if traits.u then
    local holder = holder_of(q, traits.u.k)
    if holder then
      if traits.u.c == 'replace' and WAITING[holder.st.state] then
        edit(holder, traits, task, rest)
        return {ANSWER.REPLACED, holder.id, false}
      end
      return {ANSWER.DUPLICATE_KEY, holder.id, false}
    end
  end
  local refused = is_bounded and q.ruled and refusal(q, id)
  if refused then return refused end
  add(q, id, traits, task, rest)
  return nil
end

local function split(jobs) -- words into traits, task and payload, rest
  if jobs.priority < 0 then return end
  jobs.traits, jobs.tasks, jobs.rests = {}, {}, {}
  for at, words in ipairs(jobs.words) do
    local n, task_n = from_bytes('>I3I4', words)
    local traits = {}
    if jobs.priority > 0 then traits.p = jobs.priority end
    if jobs.time then traits[jobs.time] = jobs.ms end
    jobs.traits[at], jobs.tasks[at] = traits, sub(words, 8 + n, 7 + n + task_n)
    jobs.rests[at] = sub(words, 8 + n + task_n)
  end
end

local function refusal_of(jobs, met) -- why the whole call is refused
  local q = jobs.q
  local known = hash_values(q.key .. 'j', jobs.ids)
  for at, id in ipairs(jobs.ids) do
    local words, name = known[at], q.key .. id
    local task
    if words then
      local _, _, n, task_n = from_bytes('>I6I6I3I4', words)
      task = sub(words, 20 + n, 19 + n + task_n)
    else
      task = met[name]
      met[name] = jobs.tasks[at]
    end
    if task and task ~= jobs.tasks[at] then
      local _, of = cmsgpack.unpack_one(sub(task, 2)) -- behind the head of an array of two
      return {'id', id, q.name, of}
    end
    local limits = jobs.traits[at].li
    for place = 1, limits and #limits or 0, 2 do
      if not flow.rule_of('limit', limits[place]) then return {'limit', id, limits[place]} end
    end
  end
  return nil
end

local function store_segment(jobs, answers, is_bounded) -- whether all were stored
  local all = true
  for at, id in ipairs(jobs.ids) do
    local refused = enqueue_one(jobs.q, id, jobs.traits[at], jobs.tasks[at], jobs.rests[at], is_bounded)
    answers[#answers + 1] = refused or 0
    all = all and not refused
  end
  return all
end

local function enqueue_call(segments, args, from)
  local parts, met, answers, all = {}, {}, {}, true
  for at, segment in ipairs(segments) do
    parts[at], from = read_segment(segment, args, from)
    split(parts[at])
  end
  for _, jobs in ipairs(parts) do
    local refused = refusal_of(jobs, met)
    if refused then return refused, from end
  end
  for _, jobs in ipairs(parts) do all = store_segment(jobs, answers, true) and all end
  return all and 0 or answers, from
end
