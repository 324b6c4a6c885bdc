-- The short way of most jobs: no trait but a priority, and no status of their own before a start.
-- These are all functions that it needs; a script tries it first, and makes the others only when
-- it must, since making them costs more than a whole short way.

local RETENTION = {completed = @COMPLETED_MS, cancelled = @CANCELLED_MS, dead = @DEAD_MS}

local has_kin = call('EXISTS', SHARD .. ':ch') == 1 -- some job waits for another
local some_wait = call('EXISTS', SHARD .. ':wt') == 1 -- some client waits for an end

-- ------------------------------------------------------------------ leases

local ended = {} -- queue -> group -> leases that are over

local function lease_ended(q, of_group, n)
  local groups = ended[q]
  if not groups then
    groups = {}
    ended[q] = groups
  end
  groups[of_group] = (groups[of_group] or 0) + (n or 1)
end

at_end[#at_end + 1] = function()
  for q, groups in pairs(ended) do
    for of_group, n in pairs(groups) do
      if call('HINCRBY', q.key .. 'ln', of_group, -n) <= 0 then
        call('HDEL', q.key .. 'ln', of_group)
        call('ZREM', q.key .. 'l', of_group)
        call('DEL', q.key .. 'g' .. of_group)
      end
    end
  end
end

local function lease_group(q, ids, until_ms) -- one entry for all leases that begin now
  group = group + 1
  call('ZADD', q.key .. 'l', until_ms, group)
  many('RPUSH', q.key .. 'g' .. group, ids)
  call('HSET', q.key .. 'ln', group, #ids)
  hear(':al', 'l', q, until_ms)
  return group
end

-- ------------------------------------------------------------------ handing out

-- What is taken is kept here as the reply that it becomes: id and words of first starts; id, words
-- and status of others. `runs` tells them apart: {queue, how many, whether they are first starts, ...}.
local taken, taken_n, runs = {}, 0, {}
local asked -- worker, limit, until_ms, may_park
local has_token -- whether this script has its own already

local function new_token()
  if not has_token then
    has_token = true
    token = token + 1
  end
  return token
end

local function ask(worker, limit, lease_ms)
  asked = {worker = worker, limit = limit, until_ms = mono_ms + lease_ms, may_park = 4 * limit + 64}
end

local function started(of_group) -- the status that all first starts of one call share
  return pack_status({
    state = 'running', attempt = 1, token = new_token(), lease_until_ms = asked.until_ms,
    worker = asked.worker, started_at_ms = now_ms, lg = of_group,
  })
end

local function note_run(q, n, is_first)
  taken_n = taken_n + n
  local at = #runs
  if runs[at - 2] == q.name and runs[at] == is_first then
    runs[at - 1] = runs[at - 1] + n
  else
    runs[at + 1], runs[at + 2], runs[at + 3] = q.name, n, is_first
  end
end

local function start_untouched(q, ids, words) -- in their order, all that are given
  local status, pairs_of, place = started(lease_group(q, ids, asked.until_ms)), {}, #taken
  for at = 1, #ids do
    pairs_of[2 * at - 1], pairs_of[2 * at] = ids[at], status
    taken[place + 1], taken[place + 2], place = ids[at], words[at], place + 2
  end
  note_run(q, #ids, true)
  many('HSET', q.key .. 's', pairs_of)
  add_count(q, 'available', -#ids)
  add_count(q, 'running', #ids)
end

local function next_due(q) return tonumber(call('ZRANGE', q.key .. 'd', 0, 0, 'WITHSCORES')[2]) end

local function take_short(q) -- whether all that the queue has ready could be taken, as far as wanted
  local due = next_due(q)
  if (due and due <= now_ms) or q.stale > 0 or q.ruled then return false end
  q.next_due = due
  for priority = q.top, 0, -1 do
    if call('EXISTS', q.key .. 'e' .. priority) == 1 then return false end
    local room = asked.limit - taken_n
    local ids = room > 0 and call('LPOP', q.key .. 'r' .. priority, room)
    if ids then start_untouched(q, ids, hash_values(q.key .. 'j', ids)) end
  end
  return true
end

local function meta_of(cut_short, sleep_ms, credits, first)
  return {token, asked.until_ms, cut_short, sleep_ms or false, credits or false, first or false, runs}
end

local function leases(meta) -- the reply of a script that hands out
  table.insert(taken, 1, encode(meta))
  return taken
end

local function reserve_short(request) -- the meta; nil: look again in the long way, from the first queue
  local worker, limit, lease_ms, names, weights = unpack(request)
  if weights then return nil end
  ask(worker, limit, lease_ms)
  local at_ms = RULED and tonumber(call('ZRANGE', SHARD .. ':w', 0, 0, 'WITHSCORES')[2])
  if at_ms and at_ms <= now_ms then return nil end
  for _, name in ipairs(names) do
    local q = queue_of(name)
    if not q.paused and taken_n < limit then
      if not take_short(q) then return nil end
      if q.next_due and (not at_ms or q.next_due < at_ms) then at_ms = q.next_due end
    end
  end
  if taken_n == 0 then
    for _, name in ipairs(names) do
      if not queue_of(name).rings then call('DEL', queue_of(name).key .. 'bell') end
    end
  elseif taken_n >= limit then
    for _, name in ipairs(names) do
      local q = queue_of(name)
      if not q.paused and count_of(q, 'available') > 0 then ring(q) end
    end
  end
  return meta_of(false, taken_n == 0 and at_ms and at_ms - now_ms)
end

-- ------------------------------------------------------------------ completing

local function completed_usually(q, ids)
  many('RPUSH', q.key .. 'f', ids)
  hear(':aw', 'f', q, now_ms + RETENTION.completed)
end

local function complete(st, result, codec)
  st.state, st.finished_at_ms, st.settled_token, st.saved = 'completed', now_ms, st.token, nil
  st.result, st.result_codec = result, codec
end

local function watched_of(q, ids) -- by position: somebody waits for the end of this job
  local children = has_kin and hash_values(SHARD .. ':ch', ids)
  local waiters
  if some_wait then
    local fields = {}
    for at, id in ipairs(ids) do fields[at] = encode({q.name, id}) end
    waiters = hash_values(SHARD .. ':wt', fields)
  end
  return function(at) return (children and children[at]) or (waiters and waiters[at]) end
end

-- Jobs that were handed out together share a status, and with the same result one after it.
-- Nothing is written yet; `others` are the places of those that have to go the long way.
-- No id comes twice, and the segments of one script have different tokens.
local function acks_of(q, of_token, ids, results, common)
  local packed_st, kinds, written, done, others = hash_values(q.key .. 's', ids), {}, {}, {}, {}
  local watched = (has_kin or some_wait) and watched_of(q, ids)
  local done_n, written_n = 0, 0
  for at = 1, #ids do
    local id, packed = ids[at], packed_st[at]
    local kind = packed and kinds[packed]
    if packed and not kind then
      local st = unpack_status(packed)
      kind = {st = st, is_plain = st.state == 'running' and st.token == of_token and not st.tr, n = 0, after = {}}
      kinds[packed] = kind
    end
    if not kind or not kind.is_plain or (watched and watched(at)) then
      others[#others + 1] = at
    else
      local result = common or results[at]
      local after = kind.after[result]
      if not after then
        local st, of_group = kind.st, kind.st.lg
        local saved = st.saved
        complete(st, result ~= '' and result or nil, nil)
        st.lg = nil
        after = pack_status(st)
        st.state, st.lg, st.saved = 'running', of_group, saved
        kind.after[result] = after
      end
      kind.n = kind.n + 1
      written[written_n + 1], written[written_n + 2], written_n = id, after, written_n + 2
      done_n = done_n + 1
      done[done_n] = id
    end
  end
  return {q = q, kinds = kinds, written = written, done = done, others = others}
end

local function write_acks(acks)
  local q, done = acks.q, acks.done
  if #done == 0 then return end
  many('HSET', q.key .. 's', acks.written)
  if next(rows) then
    for _, id in ipairs(done) do rows[q.key .. id] = nil end
  end
  for _, kind in pairs(acks.kinds) do
    if kind.n > 0 then lease_ended(q, kind.st.lg, kind.n) end
  end
  add_count(q, 'running', -#done)
  add_count(q, 'completed', #done)
  completed_usually(q, done)
end

local function read_acks(segment, args, from) -- ids, results or the common one, where the next begins
  local kind, _, _, n = unpack(segment)
  local ids, results = {}, {}
  if kind == 'A' then
    for at = 1, n do ids[at] = args[from + at] end
    return ids, results, args[from], from + 1 + n
  end
  for at = 1, n do
    ids[at], results[at], from = args[from], args[from + 1], from + 2
  end
  return ids, results, nil, from
end

local function settle_short(segments, args, from) -- 0 for each segment; nil: nothing was written
  local all, answers = {}, {}
  for place, segment in ipairs(segments) do
    if segment[1] == 'o' then return nil end
    local ids, results, common, after = read_acks(segment, args, from)
    from = after
    local acks = acks_of(queue_of(segment[2]), segment[3], ids, results, common)
    if #acks.others > 0 or acks.q.ruled then return nil end
    all[place], answers[place] = acks, 0
  end
  for _, acks in ipairs(all) do write_acks(acks) end
  return answers
end
