-- Rows: a job's words, written once, and its status, written at each step.
--
-- Words    seq (6 bytes), time of creation (6), lengths of traits (3) and task and payload (4),
--          traits, task and payload, the rest.
--          Traits are what these scripts must know, in MessagePack; most jobs have none:
--            p priority   t task   cm crash_max   rt retention_ms   sa, ea, da the absolute times
--            u unique {k key, d states, w window, pp period, dm delay_max, c on_conflict, r release}
--            o ordering_key   pa parents   ub unblocks {queue, id, ...}   of on_parent_failed
--            fk fair_key   fw fair_weight   li limits {name, key, ...}   gk group_key   rv revision
--          Task and payload are compared as they are; like the rest they are the client's own.
--          A job whose only traits are p and sa is light: it goes the short ways.
-- Status   length of the head (4 bytes), head, tail. The head is a map of the fields of `Status`,
--          without seq, and with: due only where somebody has changed it; lg the group of its
--          lease; tr "it is not light"; ki parents that list it; old the priority of the list of ready
--          ids where its id still is; pk the limit's key it is parked under; evb bytes of its stream; z the lengths
--          of what the tail holds, each plus one: result, saved, progress, then the errors.
--          All jobs of a batch that were never touched before share one status.
local NO_TRAITS = {}
local rows = {}

local function unpack_status(blob)
  local n = from_bytes('>I4', blob)
  local st = decode(sub(blob, 5, 4 + n))
  local lengths = st.z
  if lengths then
    local at, parts = 5 + n, {}
    for place = 1, #lengths do
      if lengths[place] > 0 then
        parts[place] = sub(blob, at, at + lengths[place] - 2)
        at = at + lengths[place] - 1
      end
    end
    st.result, st.saved, st.progress, st.z = parts[1], parts[2], parts[3], nil
    if #lengths > 3 then
      st.errors = {}
      for place = 4, #lengths do st.errors[place - 3] = parts[place] end
    end
  end
  return st
end

local function pack_status(st)
  local result, saved, progress, errors = st.result, st.saved, st.progress, st.errors
  if not (result or saved or progress or errors) then
    local head = encode(st)
    return bytes('>I4', #head) .. head
  end
  local tail = {}
  st.z = {result and #result + 1 or 0, saved and #saved + 1 or 0, progress and #progress + 1 or 0}
  if result then tail[#tail + 1] = result end
  if saved then tail[#tail + 1] = saved end
  if progress then tail[#tail + 1] = progress end
  for _, failure in ipairs(errors or {}) do
    st.z[#st.z + 1] = #failure + 1
    tail[#tail + 1] = failure
  end
  st.result, st.saved, st.progress, st.errors = nil, nil, nil, nil
  local head = encode(st)
  st.result, st.saved, st.progress, st.errors, st.z = result, saved, progress, errors, nil
  return bytes('>I4', #head) .. head .. cat(tail)
end

local function row_of(q, id, words, status)
  local at, created, n, task_n = from_bytes('>I6I6I3I4', words)
  local row = {q = q, id = id, seq = at, created = created, words = words, packed = status}
  row.traits = n == 0 and NO_TRAITS or decode(sub(words, 20, 19 + n))
  row.task_at, row.rest_at = 20 + n, 20 + n + task_n
  if status then
    row.st = unpack_status(status)
  else
    local is_delayed = (row.traits.sa or 0) > created
    row.st, row.fresh = {state = is_delayed and 'scheduled' or 'available'}, not is_delayed or nil
  end
  rows[q.key .. id] = row
  return row
end

local function load(q, id)
  local row = rows[q.key .. id]
  if row ~= nil then return row or nil end
  local words = call('HGET', q.key .. 'j', id)
  if not words then return nil end
  return row_of(q, id, words, call('HGET', q.key .. 's', id) or nil)
end

local function load_all(q, ids) -- by position; false where there is none
  local found, wanted = {}, {}
  for at, id in ipairs(ids) do
    local row = rows[q.key .. id]
    if row == nil then wanted[#wanted + 1] = id end
    found[at] = row or false
  end
  if #wanted > 0 then
    local words, statuses = hash_values(q.key .. 'j', wanted), hash_values(q.key .. 's', wanted)
    for at, id in ipairs(wanted) do
      if words[at] then row_of(q, id, words[at], statuses[at] or nil) end
    end
    for at, id in ipairs(ids) do found[at] = rows[q.key .. id] or false end
  end
  return found
end

local function find(id, name) -- without a queue, the first row with that id
  if name then return load(queue_of(name), id) end
  local first
  for _, other in ipairs(all_queues()) do
    local row = load(queue_of(other), id)
    if row and (not first or row.seq < first.seq) then first = row end
  end
  return first
end

local function due_of(row) return row.st.due or max(row.traits.sa or 0, row.created) end
local function priority_of(row) return row.traits.p or 0 end
local function place_in(row) return bytes('>I6I6', due_of(row), row.seq) .. row.id end
local function seq_in(row) return bytes('>I6', row.seq) .. row.id end
local function id_in(member) return sub(member, 7) end

local function is_light(traits)
  for name in pairs(traits) do
    if name ~= 'p' and name ~= 'sa' then return false end
  end
  return true
end

local function save(row)
  row.st.tr = not is_light(row.traits) or nil
  row.packed = pack_status(row.st)
  row.fresh = nil
  call('HSET', row.q.key .. 's', row.id, row.packed)
end

local function new_words(at, created, traits, task, rest)
  local packed = next(traits) and encode(traits) or ''
  return bytes('>I6I6I3I4', at, created, #packed, #task) .. packed .. task .. rest
end

local function save_words(row, task, rest)
  row.words = new_words(row.seq, row.created, row.traits, task, rest)
  local n = from_bytes('>I3', row.words, 13)
  row.task_at, row.rest_at = 20 + n, 20 + n + #task
  call('HSET', row.q.key .. 'j', row.id, row.words)
end

local function unlist(q, row)
  if row.st.mv then call('ZREM', q.key .. 'pm', seq_in(row)) else unlist_seqs(q, {row.seq}) end
end
