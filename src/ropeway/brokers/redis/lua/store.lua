-- Jobs come in segments, those of one queue and kind that follow each other:
--   {queue, priority, n}   n times: id, words     no trait but the priority
--   {queue, -1, n}         n times: id, traits, task and payload, rest
-- The words lack the seq and the time of creation, which come before them.
local function read_segment(segment, args, from) -- its jobs, and where the next one begins
  local jobs = {q = queue_of(segment[1]), priority = segment[2], ids = {}}
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

local function add_untouched(jobs)
  local q, ids, words, priority = jobs.q, jobs.ids, jobs.words, jobs.priority
  local pairs_of, first = {}, seq + 1
  for at = 1, #ids do
    seq = seq + 1
    pairs_of[2 * at - 1], pairs_of[2 * at] = ids[at], bytes('>I6I6', seq, now_ms) .. words[at]
  end
  many('HSET', q.key .. 'j', pairs_of)
  many('RPUSH', q.key .. 'r' .. priority, ids)
  list_ids(q, first, ids)
  add_count(q, 'available', #ids)
  if priority > q.top then
    q.top = priority
    call('HSET', q.key .. 'h', 'top', priority)
  end
  ring(q)
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
  if call('HLEN', calls) == #ids then call('PEXPIRE', calls, 180000) end
end
