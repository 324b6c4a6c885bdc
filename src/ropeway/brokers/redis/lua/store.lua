-- Jobs come in segments, those of one queue and kind that follow each other:
--   {queue, priority, n}              n times: id, words     no trait but the priority
--   {queue, priority, n, "dl", ms}    the same, after a delay
--   {queue, priority, n, "sa", ms}    the same, at a time
--   {queue, -1, n}                    n times: id, traits, task and payload, rest
-- The words lack the seq and the time of creation, which come before them.
local function read_segment(segment, args, from) -- its jobs, and where the next one begins
  local jobs = {q = queue_of(segment[1]), priority = segment[2], ids = {}, time = segment[4], ms = segment[5]}
  local n, ids = segment[3], jobs.ids
  if jobs.priority >= 0 then
    local words = {}
    for at = 1, n do ids[at], words[at], from = args[from], args[from + 1], from + 2 end
    jobs.words = words
  else
    jobs.traits, jobs.tasks, jobs.rests = {}, {}, {}
    for at = 1, n do
      ids[at], jobs.traits[at] = args[from], decode(args[from + 1])
      jobs.tasks[at], jobs.rests[at], from = args[from + 2], args[from + 3], from + 4
    end
  end
  return jobs, from
end

local function add_times(jobs) -- gives jobs their time to start: when they are due
  local at_ms = jobs.time == 'dl' and now_ms + begun_ms + jobs.ms or jobs.ms
  local traits = encode(jobs.priority > 0 and {p = jobs.priority, sa = at_ms} or {sa = at_ms})
  local head = sub(bytes('>I4', #traits), 2)
  for at, words in ipairs(jobs.words) do
    local n = from_bytes('>I3', words)
    jobs.words[at] = cat({head, sub(words, 4, 7), traits, sub(words, 8 + n)})
  end
  return at_ms
end

local function add_light(jobs)
  local q, ids, words, priority = jobs.q, jobs.ids, jobs.words, jobs.priority
  local due = jobs.time and add_times(jobs) or now_ms
  local pairs_of, members, first = {}, {}, seq + 1
  for at = 1, #ids do
    seq = seq + 1
    pairs_of[2 * at - 1], pairs_of[2 * at] = ids[at], bytes('>I6I6', seq, now_ms) .. words[at]
    if due > now_ms then members[2 * at - 1], members[2 * at] = due, bytes('>I6', seq) .. ids[at] end
  end
  many('HSET', q.key .. 'j', pairs_of)
  if due > now_ms then
    many('ZADD', q.key .. 'd', members)
    add_count(q, 'scheduled', #ids)
    if call('ZRANGE', q.key .. 'd', 0, 0)[1] == members[2] then
      hear(':ad', 'd', q, due)
      ring(q) -- who sleeps until a later one must look again
    end
  else
    many('RPUSH', q.key .. 'r' .. priority, ids)
    add_count(q, 'available', #ids)
    ring(q)
  end
  list_ids(q, first, ids)
  if priority > q.top then
    q.top = priority
    call('HSET', q.key .. 'h', 'top', priority)
  end
end

local minute = floor(now_ms / 60000)

local function known_calls(ids) -- by position, what calls were answered in the last 60 s
  local found, some = {}, false
  for _, of in ipairs({minute, minute - 1}) do
    for at, kept in ipairs(hash_values(SHARD .. ':calls' .. of, ids)) do
      if kept and now_ms - from_bytes('>I6', kept) <= 60000 then
        found[at], some = decode(sub(kept, 7)), true
      end
    end
  end
  return found, some
end

local function note_calls(ids, replies)
  local calls, pairs_of, at = SHARD .. ':calls' .. minute, {}, bytes('>I6', now_ms)
  for place, id in ipairs(ids) do
    pairs_of[2 * place - 1], pairs_of[2 * place] = id, at .. encode(replies and replies[place] or 0)
  end
  many('HSET', calls, pairs_of)
  if tonumber(counters[6]) ~= minute then
    call('HSET', SHARD .. ':m', 'minute', minute)
    call('PEXPIRE', calls, 180000)
  end
end
