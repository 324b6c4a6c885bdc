-- Writing how runs ended. A segment is:
--   {"a", queue, token, n}  n times: id, result    completed; "" for no result; no id comes twice,
--   {"A", queue, token, n}  result, n times: id    and each token has one segment; all this result
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
    st.state, st.due, st.snoozes = 'retryable', now_ms + begun_ms + o.delay, nil
    if not o.counted then st.attempt = st.attempt - 1 end
    add_errors(st, o.failure)
  end,
  snooze = function(st, o)
    st.state, st.due, st.attempt = 'scheduled', now_ms + begun_ms + o.delay, st.attempt - 1
    st.snoozes, st.reason = (st.snoozes or 0) + 1, o.reason
  end,
  release = function(st) st.state, st.attempt = 'available', st.attempt - 1 end,
  bury = function(st, o)
    st.state, st.finished_at_ms, st.reason = 'dead', now_ms, o.reason
    add_errors(st, o.failure, o.fallback)
  end,
  cancel = function(st, o)
    st.state, st.finished_at_ms, st.reason = 'cancelled', now_ms, o.reason ~= '' and o.reason or st.reason
  end,
}

local function store_follow_ups(row, segments)
  for _, jobs in ipairs(segments) do
    split(jobs)
    if not IN_CLUSTER or jobs.q == row.q then
      store_segment(jobs, {}, false)
    else
      for at, id in ipairs(jobs.ids) do
        local traits = jobs.traits[at]
        for place = 1, traits.ub and #traits.ub or 0, 2 do -- those here must not start before it
          local child = find(traits.ub[place + 1], traits.ub[place] or nil)
          if child and child.st.state == 'pending' then
            wait_for(child, id)
            call('HSET', SHARD .. ':fw', encode({child.id, id}), now_ms)
          end
        end
        post('job', jobs.q.name, id, next(traits) and encode(traits) or '\128', jobs.tasks[at], jobs.rests[at])
      end
    end
  end
end

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
      store_follow_ups(row, follow_ups)
      free_children(row)
    end
  end
  drop_unretained(row)
  return SETTLED, from
end

local function settle(segments, args, from) -- answers by segment: 0, all settled, or one each
  local answers = {}
  for place, segment in ipairs(segments) do
    if segment[1] == 'o' then
      local answer
      answer, from = settle_one(segment[2], args, from)
      answers[place] = answer == SETTLED and 0 or {answer}
    else
      local ids, results, common, after = read_acks(segment, args, from)
      from = after
      local q, replies, all = queue_of(segment[2]), {}, true
      local acks = acks_of(q, segment[3], ids, results, common)
      for at = 1, #ids do replies[at] = SETTLED end
      write_acks(acks)
      if q.ruled and #acks.done > 0 then flow.queue_ended(q, 'success', 1) end
      for _, at in ipairs(acks.others) do
        local result = common or results[at]
        local outcome = {k = 'ack', q = q.name, id = ids[at], tk = segment[3], result = result ~= '' and result or nil}
        replies[at] = settle_one(outcome, {}, 1)
        all = all and replies[at] == SETTLED
      end
      answers[place] = all and 0 or replies
    end
  end
  return answers
end
