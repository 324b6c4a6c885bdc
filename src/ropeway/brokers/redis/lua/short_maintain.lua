-- Do what time asks for. head: {whether to see only if there is something to do, how
-- many at most of each of the first five that are returned}.
-- Returns, in MessagePack, {} for "there is", or
-- {promoted, expired, buried, cascaded, pruned, next_ms or false}.
local only_asks, most_promoted, most_expired, most_buried, most_cascaded, most_pruned = unpack(decode(ARGV[2]))

local function due_queues(agenda, kind, at_ms) -- those with something to do by then
  local found = {}
  for _, entry in ipairs(call('ZRANGEBYSCORE', SHARD .. agenda, '-inf', at_ms)) do
    if sub(entry, 1, 1) == kind then found[#found + 1] = queue_of(sub(entry, 2)) end
  end
  return found
end

local function note(agenda, kind, q, at_ms) -- when the queue is next looked at
  if at_ms then call('ZADD', SHARD .. agenda, at_ms, kind .. q.name) else call('ZREM', SHARD .. agenda, kind .. q.name) end
end

local function first_of(key) return tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) end

local next_ms = false
local function sooner(agenda, key, clock_ms) -- the first true time of an agenda
  while true do
    local head = call('ZRANGE', SHARD .. agenda, 0, 0, 'WITHSCORES')
    if not head[1] then return end
    local q = queue_of(sub(head[1], 2))
    local at_ms = first_of(q.key .. key)
    if at_ms == tonumber(head[2]) then
      local ms = max(0, at_ms - clock_ms)
      if not next_ms or ms < next_ms then next_ms = ms end
      return
    end
    note(agenda, sub(head[1], 1, 1), q, at_ms)
  end
end

local function is_due(agenda, at_ms)
  local first = call('ZRANGE', SHARD .. agenda, 0, 0, 'WITHSCORES')[2]
  return first and tonumber(first) <= at_ms
end

if not (is_due(':ad', now_ms) or is_due(':al', mono_ms) or is_due(':aw', now_ms) or is_due(':kt', now_ms))
  and call('EXISTS', SHARD .. ':fq') == 0 then
  sooner(':ad', 'd', now_ms)
  sooner(':al', 'l', mono_ms)
  return encode({0, 0, 0, 0, 0, next_ms})
end
if only_asks then return encode({}) end
