-- The short way of most jobs: light ones, which have no traits but a priority and a time.
-- These are all functions that it needs; a script tries it first, and makes the others only when
-- it must, since making them costs more than a whole short way.

local RETENTION = {completed = @COMPLETED_MS, cancelled = @CANCELLED_MS, dead = @DEAD_MS}

local has_kin = call('EXISTS', SHARD .. ':ch') == 1 -- some job waits for another
local kin = {} -- parent -> its children, as read and changed by this script
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

-- Moves light jobs that are due to those that are available; how many, and the ids of the others.
local function promote_light(q, limit)
  local due = limit > 0 and call('ZRANGEBYSCORE', q.key .. 'd', '-inf', now_ms, 'LIMIT', 0, limit, 'WITHSCORES') or {}
  if #due == 0 then return 0, {} end
  local ids, members = {}, {}
  for at = 1, #due, 2 do members[#members + 1], ids[#ids + 1] = due[at], sub(due[at], 7) end
  local words, packed_st = hash_values(q.key .. 'j', ids), hash_values(q.key .. 's', ids)
  local gone, written, ready, others, available = {}, {}, {}, {}, nil
  local from = {scheduled = 0, retryable = 0}
  for at, id in ipairs(ids) do
    local packed, st = packed_st[at], nil
    if packed then st = unpack_status(packed) end
    if q.fair or (st and st.tr) or #others > 0 then -- what follows may depend on it
      others[#others + 1] = id
    else
      local priority = 0
      if q.top > 0 then
        local n = from_bytes('>I3', words[at], 13)
        priority = n > 0 and decode(sub(words[at], 20, 19 + n)).p or 0
      end
      from[st and st.state or 'scheduled'] = from[st and st.state or 'scheduled'] + 1
      if st then
        st.state = 'available'
        packed = pack_status(st)
      else
        available = available or pack_status({state = 'available'})
        packed = available
      end
      gone[#gone + 1] = members[at]
      written[#written + 1] = id
      written[#written + 1] = packed
      local into = ready[priority] or {}
      ready[priority] = into
      into[#into + 1] = 0
      into[#into + 1] = bytes('>I6', tonumber(due[2 * at])) .. members[at]
    end
  end
  if #gone > 0 then
    many('ZREM', q.key .. 'd', gone)
    many('HSET', q.key .. 's', written)
    for priority, into in pairs(ready) do many('ZADD', q.key .. 'e' .. priority, into) end
    for state, n in pairs(from) do
      if n > 0 then add_count(q, state, -n) end
    end
    add_count(q, 'available', #gone)
    if next(rows) then
      for _, id in ipairs(ids) do rows[q.key .. id] = nil end
    end
    ring(q)
  end
  return #gone, others
end

-- What a light job that has been touched becomes by a start, and whether its lease is like that of
-- a first start; nil: it goes the long way.
local function start_kind(packed, of_group)
  local st = unpack_status(packed)
  if st.state ~= 'available' or st.tr or st.crashes or st.rank or st.blocked_on then return nil end
  st.state, st.attempt, st.token = 'running', (st.attempt or 0) + 1, new_token()
  st.lease_until_ms, st.worker, st.started_at_ms, st.reason = asked.until_ms, asked.worker, now_ms, nil
  st.lg = of_group
  return {packed = pack_status(st), is_first = st.attempt == 1 and not st.snoozes and not st.saved}
end

-- Takes light jobs of one priority by the order of both the touched and the untouched; whether it
-- could go on to the end.
local function take_light(q, priority)
  local room, list, zset = asked.limit - taken_n, q.key .. 'r' .. priority, q.key .. 'e' .. priority
  local touched = call('ZRANGE', zset, 0, room - 1)
  if #touched == 0 then
    local ids = call('LPOP', list, room)
    if ids then start_untouched(q, ids, hash_values(q.key .. 'j', ids)) end
    return true, 0
  end
  local ids = {}
  for at, member in ipairs(touched) do ids[at] = sub(member, 13) end
  local words, packed_st = hash_values(q.key .. 'j', ids), hash_values(q.key .. 's', ids)
  local untouched = call('LRANGE', list, 0, room - 1)
  local fresh_words = #untouched > 0 and hash_values(q.key .. 'j', untouched) or {}
  local of_group, kinds, first = group + 1, {}, nil
  local from, met, run, written, place, is_light_run = 1, 1, {}, {}, #taken, true
  while #run < room do
    local member, fresh = touched[from], fresh_words[met]
    if not member and not fresh then break end
    if member and (not fresh or sub(member, 1, 12) < sub(fresh, 7, 12) .. sub(fresh, 1, 6)) then
      local packed = packed_st[from]
      local after = kinds[packed]
      if after == nil then
        after = start_kind(packed, of_group) or false
        kinds[packed] = after
      end
      if not after then
        is_light_run = false
        break
      end
      run[#run + 1] = ids[from]
      written[#written + 1] = ids[from]
      written[#written + 1] = after.packed
      taken[place + 1], taken[place + 2], place = ids[from], words[from], place + 2
      if not after.is_first then
        place = place + 1
        taken[place] = after.packed
      end
      note_run(q, 1, after.is_first)
      from = from + 1
    else
      first = first or started(of_group)
      run[#run + 1] = untouched[met]
      written[#written + 1] = untouched[met]
      written[#written + 1] = first
      taken[place + 1], taken[place + 2], place = untouched[met], fresh, place + 2
      note_run(q, 1, true)
      met = met + 1
    end
  end
  if #run > 0 then
    lease_group(q, run, asked.until_ms)
    many('HSET', q.key .. 's', written)
    if from > 1 then call('ZREMRANGEBYRANK', zset, 0, from - 2) end
    if met > 1 then call('LPOP', list, met - 1) end
    add_count(q, 'available', -#run)
    add_count(q, 'running', #run)
    if next(rows) then
      for _, id in ipairs(run) do rows[q.key .. id] = nil end
    end
  end
  return is_light_run, #run
end

local function take_short(q) -- whether all that the queue has ready could be taken, as far as wanted
  if q.stale > 0 or q.ruled or q.fair then return false end
  local due = next_due(q)
  if due and due <= now_ms then
    local _, others = promote_light(q, 2 * asked.limit)
    if #others > 0 then return false end
    due = next_due(q)
  end
  q.next_due = due
  for priority = q.top, 0, -1 do
    local n = 1
    while taken_n < asked.limit and n > 0 do
      local goes_on
      goes_on, n = take_light(q, priority)
      if not goes_on then return false end
    end
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
  return function(at) return (children and children[at]) or kin[ids[at]] or (waiters and waiters[at]) end
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
