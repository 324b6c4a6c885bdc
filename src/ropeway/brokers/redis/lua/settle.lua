-- Writing how runs ended. A segment is:
--   {"a", queue, token, n}  n times: id, result    completed; "" for no result
--   {"A", queue, token, n}  result, n times: id    completed, all with this result
--   {"o", outcome}          any other end: k its kind, q queue, id, tk token, and what it has of
--                           delay, counted, reason, codec, th segments to enqueue;
--                           then as arguments, where named true: res, failure, fallback, jobs of th
local SETTLED, ALREADY, LOST = 0, 1, 2

local function held(q, id, of_token) -- the row of a current lease; else nil, and the row
  local row = load(q, id)
  if not row then return nil, nil end
  local st = row.st
  if st.state == 'running' and st.token == of_token then return row, row end
  if not FINAL[st.state] and of_token ~= st.settled_token then
    for at, one in ipairs(st.crashes or {}) do
      if one[1] == of_token then -- the holder lives: that was no crash
        table.remove(st.crashes, at)
        if #st.crashes == 0 then st.crashes = nil end
        save(row)
        break
      end
    end
  end
  return nil, row
end

local function complete(st, result, codec)
  st.state, st.finished_at_ms, st.settled_token, st.saved = 'completed', now_ms, st.token, nil
  st.result, st.result_codec = result, codec
end

local function add_errors(st, ...)
  for at = 1, select('#', ...) do
    local failure = select(at, ...)
    if failure then
      st.errors = st.errors or {}
      table.insert(st.errors, failure)
      if #st.errors > @ERRORS_KEPT then table.remove(st.errors, 1) end
    end
  end
end

local endings = {
  ack = function(st, o) complete(st, o.result, o.codec) end,
  retry = function(st, o)
    st.state, st.due, st.snoozes = 'retryable', now_ms + o.delay, nil
    if not o.counted then st.attempt = st.attempt - 1 end
    add_errors(st, o.failure)
  end,
  snooze = function(st, o)
    st.state, st.due, st.attempt = 'scheduled', now_ms + o.delay, st.attempt - 1
    st.snoozes, st.reason = (st.snoozes or 0) + 1, o.reason
  end,
  release = function(st) st.state, st.attempt = 'available', st.attempt - 1 end,
  bury = function(st, o)
    st.state, st.finished_at_ms, st.reason = 'dead', now_ms, o.reason
    add_errors(st, o.failure, o.fallback)
  end,
  cancel = function(st, o)
    st.state, st.finished_at_ms, st.reason = 'cancelled', now_ms, o.reason or st.reason
  end,
}

local function settle_one(o, args, from) -- the answer, and where the next arguments begin
  local q = queue_of(o.q)
  local row, other = held(q, o.id, o.tk)
  local segments = o.th or {}
  if o.res then o.result, from = args[from], from + 1 end
  if o.failure then o.failure, from = args[from], from + 1 end
  if o.fallback then o.fallback, from = args[from], from + 1 end
  local follow_ups = {}
  for at, segment in ipairs(segments) do follow_ups[at], from = read_segment(segment, args, from) end
  if not row then return other and other.st.settled_token == o.tk and ALREADY or LOST, from end
  local st, kind = row.st, o.k
  st.settled_token = st.token
  if kind == 'crashed' then
    lease_expired(row)
  else
    if st.cancel_requested and (kind == 'retry' or kind == 'snooze' or kind == 'release') then kind = 'cancel' end
    open(row)
    endings[kind](st, o)
    put(row)
    if kind == 'ack' then
      for _, jobs in ipairs(follow_ups) do store_segment(jobs, {}, false) end
      free_children(row)
    end
  end
  drop_unretained(row)
  return SETTLED, from
end

local function is_watched(q, ids, at)
  return (has_kin and call('HEXISTS', SHARD .. ':ch', ids[at]) == 1)
    or (some_wait and call('HEXISTS', SHARD .. ':wt', encode({q.name, ids[at]})) == 1)
end

-- Jobs without traits that nobody waits for are completed all at once; those that were handed out
-- together share a status before, and with the same result share one after.
local function complete_all(q, of_token, ids, results, common)
  local answers, all, seen, packed_st = {}, true, {}, hash_values(q.key .. 's', ids)
  local written, done, others = {}, {}, {}
  local someone_looks = has_kin or some_wait
  for at, id in ipairs(ids) do
    local packed = packed_st[at]
    local kind = packed and seen[packed]
    if packed and not kind then
      local st = unpack_status(packed)
      kind = {st = st, is_plain = st.state == 'running' and st.token == of_token and not st.tr, n = 0, after = {}}
      seen[packed] = kind
    end
    if not kind or not kind.is_plain or (someone_looks and is_watched(q, ids, at)) then
      others[#others + 1] = at
    else
      local result = common or results[at]
      local after = kind.after[result]
      if not after then
        complete(kind.st, result ~= '' and result or nil, nil)
        local of_group = kind.st.lg
        kind.st.lg = nil
        after = pack_status(kind.st)
        kind.st.lg = of_group
        kind.after[result] = after
      end
      kind.n = kind.n + 1
      written[#written + 1], written[#written + 2] = id, after
      done[#done + 1] = id
      rows[q.key .. id] = nil
      answers[at] = SETTLED
    end
  end
  if #done > 0 then
    many('HSET', q.key .. 's', written)
    for _, kind in pairs(seen) do
      if kind.n > 0 then
        lease_ended(q, kind.st.lg)
        ended[q][kind.st.lg] = ended[q][kind.st.lg] + kind.n - 1
      end
    end
    add_count(q, 'running', -#done)
    add_count(q, 'completed', #done)
    completed_usually(q, done)
    if RULED then flow.queue_ended(q, 'success', 1) end
  end
  for _, at in ipairs(others) do
    local result = common or results[at]
    local outcome = {k = 'ack', q = q.name, id = ids[at], tk = of_token, result = result ~= '' and result or nil}
    answers[at] = settle_one(outcome, {}, 1)
    all = all and answers[at] == SETTLED
  end
  return all and 0 or answers
end

local function settle(segments, args, from) -- answers by segment: 0, all settled, or one each
  local answers = {}
  for place, segment in ipairs(segments) do
    local kind, queue, of_token, n = unpack(segment)
    if kind == 'o' then
      local answer
      answer, from = settle_one(queue, args, from)
      answers[place] = answer == SETTLED and 0 or {answer}
    else
      local ids, results, common = {}, {}, nil
      if kind == 'A' then common, from = args[from], from + 1 end
      for at = 1, n do
        ids[at] = args[from]
        if not common then results[at] = args[from + 1] end
        from = from + (common and 1 or 2)
      end
      answers[place] = complete_all(queue_of(queue), of_token, ids, results, common)
    end
  end
  return answers, from
end
