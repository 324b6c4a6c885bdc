-- What an operator asks of single jobs. head: {{kind, id, queue or false, detail, revision}, ...};
-- kinds: cancel, retry, run, bury, move, delete, edit. `detail` is the reason, or the other queue.
-- For each edit, as arguments: traits, task and payload, rest.
-- Returns, in MessagePack, for each {answer, state or false, detail, queue, worker}:
-- 0 done, 1 requested, 2 not found, 3 refused, with the text that follows for the last.
local from, reply = 3, {}

local function is_taken(q, u, row) -- who else holds the unique key there
  local holder = u and holder_of(q, u.k)
  if holder and holder ~= row then return 'unique key ' .. u.k .. ' is held by job ' .. holder.id end
  return nil
end

local function move(row, name)
  local old, st = row.q, row.st
  local q = queue_of(name)
  open(row)
  unlist(old, row)
  if st.old then leave_list(row) end
  if old.drop then call('ZREM', old.key .. 'od', seq_in(row)) end
  call('HDEL', old.key .. 'j', row.id)
  call('HDEL', old.key .. 's', row.id)
  if st.evb then call('RENAME', old.key .. 'ev' .. row.id, q.key .. 'ev' .. row.id) end
  for _, parent_id in ipairs(st.ki or {}) do
    disown(parent_id, old.name, row.id)
    add_child(parent_id, q.name, row.id)
  end
  rows[old.key .. row.id], rows[q.key .. row.id] = false, row
  row.q, st.mv = q, 1
  call('SADD', SHARD .. ':queues', q.name)
  call('ZADD', q.key .. 'pm', row.seq, seq_in(row))
  call('HSET', q.key .. 'j', row.id, row.words)
  put(row)
  answer_moved(row, old.name)
end

local function refuse(state, why) return {3, state, why or ('not possible for a job that is ' .. state)} end

local acts = {
  cancel = function(row, state, reason)
    if FINAL[state] then return refuse(state) end
    if state == 'running' then
      row.st.cancel_requested, row.st.reason = true, reason
      save(row)
      return {1, state, '', row.q.name, row.st.worker}
    end
    open(row)
    row.st.state, row.st.finished_at_ms, row.st.reason = 'cancelled', now_ms, reason
    put(row)
  end,
  bury = function(row, state, reason)
    if not WAITING[state] then return refuse(state) end
    open(row)
    row.st.state, row.st.finished_at_ms, row.st.reason = 'dead', now_ms, reason
    put(row)
  end,
  retry = function(row, state)
    if not FINAL[state] and state ~= 'retryable' then return refuse(state) end
    local taken_by = is_taken(row.q, row.traits.u, row)
    if taken_by then return refuse(state, taken_by) end
    open(row)
    local st = row.st
    st.state, st.due, st.attempt = 'available', now_ms, 0
    st.snoozes, st.crashes, st.finished_at_ms, st.result, st.reason = nil, nil, nil, nil, nil
    st.cancel_requested, st.waiting_on = nil, nil
    put(row)
    reopen_children(row)
  end,
  run = function(row, state)
    if not (state == 'scheduled' or state == 'retryable' or state == 'available') then return refuse(state) end
    open(row)
    local st = row.st
    st.due = min(due_of(row), now_ms)
    st.state, st.reason = 'available', nil
    put(row)
  end,
  move = function(row, state, name)
    if not WAITING[state] then return refuse(state) end
    if IN_CLUSTER and name ~= row.q.name then return refuse(state, 'in a cluster, see cluster/moving.py') end
    local q = queue_of(name)
    if q ~= row.q and load(q, row.id) then return refuse(state, 'queue ' .. name .. ' has a job of this id') end
    local taken_by = is_taken(q, row.traits.u, row)
    if taken_by then return refuse(state, taken_by) end
    if q ~= row.q then move(row, name) end
  end,
  delete = function(row, state)
    if state == 'running' then return refuse(state, 'it is running: cancel it first') end
    forget(row)
    return {0, state, ''}
  end,
  edit = function(row, state, _, revision, words)
    if not WAITING[state] or (revision and revision ~= (row.traits.rv or 0)) then return refuse(state) end
    local taken_by = is_taken(row.q, words[1].u, row)
    if taken_by then return refuse(state, taken_by) end
    edit(row, words[1], words[2], words[3])
  end,
}

for at, action in ipairs(decode(ARGV[2])) do
  local kind, id, queue, detail, revision = unpack(action)
  local words
  if kind == 'edit' then
    words = {decode(ARGV[from]), ARGV[from + 1], ARGV[from + 2]}
    from = from + 3
  end
  local row = find(id, queue or nil)
  if not row then
    reply[at] = {2, false, ''}
  else
    reply[at] = acts[kind](row, row.st.state, detail, revision or nil, words)
    if not reply[at] then
      local state = row.st.state
      drop_unretained(row)
      reply[at] = {0, state, ''}
    end
  end
end
finish()
return encode(reply)
