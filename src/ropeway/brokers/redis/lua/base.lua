-- What every script begins with: where keys are, what time it is, counters of the shard and queues.
--
-- KEYS[1]  the shard: the prefix of all its keys, with the hash tag that keeps them in one slot
-- ARGV[1]  "KEPT" or "KEPT WALL MONO": completed records kept per queue; clocks of a test, in ms.
--          A "c" behind KEPT: in a cluster, where each queue is a shard of its own.
-- ARGV[2]  the script's own head, in MessagePack
--
-- Keys of a shard                          Keys of a queue, behind SHARD:<#name>:<name>:
--   :m   hash   counters, latest time        h  hash  counts by state, paused, highest priority
--   :queues  set  names                      j  hash  id -> words (see row.lua)
--   :rl  hash   rules                        s  hash  id -> status; none: available, never touched
--   :kt  zset   rates' keys by when idle
--   :k   hash   states of limits' keys       r<priority>  list  ids of such jobs, in order
--   :kp<key> zset  parked under a key        e<priority>  zset  the others that are available
--   :w   zset   keys that have room, when    d  zset  scheduled and retryable, by due time
--   :ch  hash   parent -> its children       x  zset  waiting jobs by when it is too late to start
--   :fq  list   failed parents               l  zset  groups of leases by their end
--   :wt  hash   job -> who waits for it      g<group>  list  ids;  ln  hash  group -> still leased
--   :wl<waiter> list  what they waited for   f  list  completed ids that are kept as usual, in order
--   :ad :al :aw  zset  queues by when        c  zset  other completed ids by time
--        something is due, a lease ends,     p  zset  final ids that are not in f, by time to prune
--        or the rest of maintain has work    pz zset  pages;  pg<first seq>  list  ids in order of seq
--   :sg  stream signals   :wk  hash workers  pl hash  page -> records gone;  pm  zset  moved here
--   :ob  list   outbox, in a cluster; :fw  hash  waits for jobs that may be elsewhere (kin.lua)
--   :calls<minute> hash  calls and answers   u  hash  unique key -> id
--                                            ol<key> zset  line of an ordering key;  oh hash  heads
--                                            t<priority>  hash  tenant -> last rank
--                                            b... batches, od  zset  what a full queue may drop
--                                            ev<id> list  a job's stream;  bell  list  wakes a waiter
local SHARD = KEYS[1]
local call = redis.call
local cat, floor, ceil, max, min = table.concat, math.floor, math.ceil, math.max, math.min
local sub, format = string.sub, string.format
local bytes, from_bytes = struct.pack, struct.unpack
local encode, decode = cmsgpack.pack, cmsgpack.unpack
local UNPACK_MAX = 4000 -- arguments that one call takes; Lua's stack has room for less than 8,000

local FINAL = {completed = true, dead = true, cancelled = true}
local WAITING = {pending = true, scheduled = true, available = true, retryable = true}
local KEPT_PLACE = {available = true, running = true}

local counters = call('HMGET', SHARD .. ':m', 'clock', 'seq', 'token', 'group', 'rules', 'minute')
local seq, token, group = tonumber(counters[2] or 0), tonumber(counters[3] or 0), tonumber(counters[4] or 0)
local RULED = counters[5] -- some rule is declared
local first_seq, first_token, first_group = seq, token, group

local KEPT, IN_CLUSTER, now_ms, mono_ms
local begun_ms = 0 -- 1 within a millisecond: a delay that is counted from its end is never short
do -- schedules never run backwards; leases run on the same clock, which is all that Redis has
  local kept, cluster, wall, mono = string.match(ARGV[1], '^(%d+)(c?) ?(%d*) ?(%d*)$')
  KEPT, IN_CLUSTER = tonumber(kept), cluster == 'c'
  if wall == '' then
    local time = call('TIME')
    now_ms = time[1] * 1000 + floor(time[2] / 1000)
    begun_ms = time[2] % 1000 > 0 and 1 or 0
  else
    now_ms = tonumber(wall)
  end
  now_ms = max(now_ms, tonumber(counters[1] or 0))
  mono_ms = mono == '' and now_ms or tonumber(mono)
end

local function each_slice(list, n, fn) -- fn(from, to) for slices of at most n
  for from = 1, #list, n do fn(from, min(from + n - 1, #list)) end
end

local function many(command, key, list) -- one command with any flow.number of arguments
  each_slice(list, UNPACK_MAX, function(from, to) call(command, key, unpack(list, from, to)) end)
end

local function hash_values(key, fields)
  if #fields <= UNPACK_MAX then return call('HMGET', key, unpack(fields)) end
  local values = {}
  each_slice(fields, UNPACK_MAX, function(from, to)
    for at, value in ipairs(call('HMGET', key, unpack(fields, from, to))) do values[from + at - 1] = value end
  end)
  return values
end

-- ------------------------------------------------------------------ queues

local queues = {}

local function queue_of(name)
  local q = queues[name]
  if not q then
    q = {name = name, key = SHARD .. ':' .. #name .. ':' .. name .. ':', n = {}}
    local kept = call('HMGET', q.key .. 'h', 'paused', 'top', 'page', 'paged', 'fair', 'drop', 'stale', 'ruled')
    q.paused, q.fair, q.drop, q.stale = kept[1], kept[5], kept[6], tonumber(kept[7] or 0)
    q.ruled = kept[8] -- it has a bound or limits of its own
    q.top, q.page, q.paged = tonumber(kept[2] or 0), kept[3], tonumber(kept[4] or 0)
    queues[name] = q
  end
  return q
end

local function all_queues()
  local names = call('SMEMBERS', SHARD .. ':queues')
  table.sort(names)
  return names
end

local function add_count(q, state, n) q.n[state] = (q.n[state] or 0) + n end

local function count_of(q, state)
  return tonumber(call('HGET', q.key .. 'h', state) or 0) + (q.n[state] or 0)
end

local function add_stale(q, n) -- entries in lists of ready ids that are out of date
  q.stale = call('HINCRBY', q.key .. 'h', 'stale', n)
end

local function ring(q) -- let one of those who wait for the queue look again
  q.rings = true
end

local function hear(agenda, kind, q, at_ms) -- maintain has something to do at that time
  call('ZADD', SHARD .. agenda, 'LT', at_ms, kind .. q.name)
end

-- ------------------------------------------------------------------ the end of a script

local at_end = {} -- what the parts keep until then

local function finish()
  for at = 1, #at_end do at_end[at]() end
  local changed = {}
  if seq ~= first_seq then changed[#changed + 1] = 'seq'; changed[#changed + 1] = seq end
  if token ~= first_token then changed[#changed + 1] = 'token'; changed[#changed + 1] = token end
  if group ~= first_group then changed[#changed + 1] = 'group'; changed[#changed + 1] = group end
  local counted = false
  for _, q in pairs(queues) do
    for state, n in pairs(q.n) do
      if n ~= 0 then
        counted = true
        local total = call('HINCRBY', q.key .. 'h', state, n)
        if state == 'completed' and n > 0 and total > KEPT then hear(':aw', 'k', q, now_ms) end
      end
    end
    q.n = {}
    if q.rings and call('LLEN', q.key .. 'bell') == 0 then call('RPUSH', q.key .. 'bell', '1') end
    q.rings = nil
  end
  if counted or #changed > 0 then
    if now_ms > tonumber(counters[1] or 0) then
      changed[#changed + 1] = 'clock'
      changed[#changed + 1] = format('%.0f', now_ms)
    end
    if #changed > 0 then call('HSET', SHARD .. ':m', unpack(changed)) end
  end
end
