-- The keys of a limit that hold or wait. head: {limit, key or false, queue or false, shown};
-- with a queue: the limits of that queue itself. Returns, in MessagePack, for each
-- {queue, key, {queue, id, ... of those that hold it}, used, parked, opens_at_ms or false}.
local name, key, of_queue, shown = unpack(decode(ARGV[2]))
local reply, holders, used = {}, {}, {}

local function hold(id, row)
  used[id] = (used[id] or 0) + 1
  holders[id] = holders[id] or {}
  holders[id][used[id]] = row
end

local function shown_of(id)
  local found, refs = holders[id] or {}, {}
  table.sort(found, function(a, b) return a.seq < b.seq end)
  for at = 1, min(#found, shown) do
    refs[#refs + 1] = found[at].q.name
    refs[#refs + 1] = found[at].id
  end
  return refs
end

for _, queue in ipairs(of_queue and {of_queue} or all_queues()) do
  local q = queue_of(queue)
  for _, of_group in ipairs(call('ZRANGE', q.key .. 'l', 0, -1)) do
    for _, row in ipairs(load_all(q, call('LRANGE', q.key .. 'g' .. of_group, 0, -1))) do
      if row and row.st.state == 'running' and row.st.lg == tonumber(of_group) then
        if of_queue then
          hold('', row)
        else
          for _, one in ipairs(flow.ids_of(row)) do hold(one.id, row) end
        end
      end
    end
  end
end

if of_queue then
  local rule = flow.queue_rule(queue_of(of_queue))
  for _, limit in ipairs(rule and rule.limits or {}) do
    if not key or key == limit.type then
      local state, is_slots = flow.state_of(flow.queue_key(queue_of(of_queue), limit)), limit.type == 'slots'
      local at_ms = flow.opens_at(limit, state)
      reply[#reply + 1] = {of_queue, limit.type, is_slots and shown_of('') or {},
        is_slots and (used[''] or 0) or state.used, 0, at_ms and at_ms > now_ms and at_ms or false}
    end
  end
else
  for _, id in ipairs(call('HKEYS', SHARD .. ':k')) do
    local scope, of_limit, of_key = flow.parse_key(id)
    local rule = flow.rule_of('limit', of_limit)
    if of_limit == name and rule and (not key or key == of_key) then
      local state = flow.state_of(id)
      if not flow.is_idle(rule.limit, state) then
        local at_ms = flow.room_of(rule.limit, state) == 0 and flow.opens_at(rule.limit, state)
        reply[#reply + 1] = {scope, of_key, shown_of(id), used[id] or 0, state.parked, at_ms or false}
      end
    end
  end
end
return encode(reply)
