-- Flow control: limits and their keys, turns of tenants, batches, bounds of queues.
-- The arithmetic is that of ropeway.flow (limit, gate, fair, queue, pace), step by step.
local flow = {}
do

-- ------------------------------------------------------------------ rules

local rules -- kind .. "\0" .. name -> {declared, override}; read when first asked for

local function rule_of(kind, name)
  if not RULED then return nil end
  if not rules then
    rules = {}
    local kept = call('HGETALL', SHARD .. ':rl')
    for at = 1, #kept, 2 do rules[kept[at]] = decode(kept[at + 1]) end
  end
  local rule = rules[kind .. '\0' .. name]
  return rule and (rule.override or rule.declared)
end

local function queue_rule(q)
  if q.rule == nil then q.rule = q.ruled and rule_of('queue', q.name) or false end
  return q.rule
end

-- ------------------------------------------------------------------ one limit and one key

local UNBOUNDED = 9007199254740992

local function room_of(limit, state)
  if limit.type == 'slots' then return max(0, limit.n - state.used) end
  if limit.type == 'rate' then
    local ahead_ms = max(0, state.tat - now_ms)
    return max(0, floor(limit.burst - ahead_ms * limit.n / limit.period_ms + 1e-6))
  end
  if state.failures < limit.failures then return UNBOUNDED end
  return now_ms >= state.open_until and max(0, 1 - state.used) or 0
end

local function take_from(limit, state, n)
  if limit.type == 'slots' then
    state.used = state.used + n
  elseif limit.type == 'rate' then
    state.tat = max(state.tat, now_ms) + n * limit.period_ms / limit.n
  elseif state.failures >= limit.failures then
    state.used = state.used + n
  end
end

local function give_back(limit, state, ending, n) -- ending: success, failure, other
  if limit.type == 'slots' then
    state.used = max(0, state.used - n)
    return true
  end
  if limit.type == 'rate' or (ending ~= 'failure' and state.failures == 0) then return false end
  for _ = 1, n do
    local is_open = state.failures >= limit.failures
    if not (is_open and now_ms < state.open_until) then
      state.used = max(0, state.used - 1)
      if ending == 'success' then
        state.failures, state.used = 0, 0
      elseif ending == 'failure' then
        state.failures = state.failures + 1
        if state.failures >= limit.failures then
          state.used, state.open_until = 0, now_ms + limit.cooldown_ms
        end
      end
    end
  end
  return true
end

local function opens_at(limit, state) -- when time alone makes room
  if limit.type == 'rate' then return ceil(state.tat - (limit.burst - 1) * limit.period_ms / limit.n) end
  if limit.type == 'breaker' and state.failures >= limit.failures and state.used == 0 then
    return state.open_until
  end
  return nil
end

local function is_idle(limit, state)
  return state.used == 0 and state.parked == 0 and state.failures == 0
    and (limit.type ~= 'rate' or state.tat <= now_ms)
end

-- ------------------------------------------------------------------ the keys of limits

local states = {} -- key id -> state, as changed by this script

local function number(value) return format('%.17g', value) end

local function key_id(scope, name, key) return #scope .. ':' .. scope .. #name .. ':' .. name .. key end

local function parse_key(id)
  local n, rest = string.match(id, '^(%d+):(.*)$')
  local scope = sub(rest, 1, n)
  local m, names = string.match(sub(rest, n + 1), '^(%d+):(.*)$')
  return scope, sub(names, 1, m), sub(names, m + 1)
end

local function state_of(id)
  local state = states[id]
  if not state then
    local kept = call('HGET', SHARD .. ':k', id)
    if kept then
      state = {}
      state.used, state.tat, state.failures, state.open_until, state.parked = from_bytes('>I4dI4I6I4', kept)
    else
      state = {used = 0, tat = 0, failures = 0, open_until = 0, parked = 0}
    end
    states[id] = state
  end
  return state
end

at_end[#at_end + 1] = function()
  for id, state in pairs(states) do
    if state.dirty then
      local scope, name, key = parse_key(id)
      local rule = rule_of('limit', name)
      local limit = rule and rule.limit or (name == 'queue:' .. scope and {type = key})
      if limit and is_idle(limit, state) then
        call('HDEL', SHARD .. ':k', id)
        call('ZREM', SHARD .. ':kt', id)
      else
        call('HSET', SHARD .. ':k', id,
          bytes('>I4dI4I6I4', state.used, state.tat, state.failures, state.open_until, state.parked))
        if limit and limit.type == 'rate' then call('ZADD', SHARD .. ':kt', number(state.tat), id) end
      end
    end
  end
end

local function ids_of(row) -- the keys that a job counts under, with their limits
  local found = {}
  local limits = row.traits.li
  for at = 1, limits and #limits or 0, 2 do
    local rule = rule_of('limit', limits[at])
    if rule then
      local scope = rule.scope == 'queue' and row.q.name or ''
      found[#found + 1] = {id = key_id(scope, limits[at], limits[at + 1]), limit = rule.limit}
    end
  end
  return found
end

local RUNG_MAX = 100 -- parked jobs whose queues are told at once that there is room

local function queue_in(member) -- of the members that `parked_in` makes
  return queue_of(sub(member, 23, 22 + from_bytes('>I2', member, 21)))
end

local function wakes_of(id, rule) -- how many parked jobs have room now
  local state = state_of(id)
  if state.parked == 0 then return 0 end
  return rule and min(state.parked, room_of(rule.limit, state)) or state.parked
end

local function note_wake(id) -- when jobs parked under this key may be looked at again
  local _, name = parse_key(id)
  local rule, state = rule_of('limit', name), state_of(id)
  local at_ms
  if wakes_of(id, rule) > 0 then
    at_ms = now_ms
  elseif rule and state.parked > 0 then
    at_ms = opens_at(rule.limit, state)
  end
  if at_ms then call('ZADD', SHARD .. ':w', at_ms, id) else call('ZREM', SHARD .. ':w', id) end
  return at_ms
end

local function start_limits(row) -- take all or nothing: the key that refuses, else nil
  local found = ids_of(row)
  for _, one in ipairs(found) do
    if room_of(one.limit, state_of(one.id)) == 0 then return one.id end
  end
  for _, one in ipairs(found) do
    local state = state_of(one.id)
    take_from(one.limit, state, 1)
    state.dirty = true
  end
  return nil
end

local function ring_parked(one) -- the queues of those that have room now: a limit may count over many
  local n = min(wakes_of(one.id, one), RUNG_MAX)
  if n == 0 then return end
  for _, member in ipairs(call('ZRANGE', SHARD .. ':kp' .. one.id, 0, n - 1)) do ring(queue_in(member)) end
end

local function end_limits(row, ending)
  local found, waited = ids_of(row), false
  for _, one in ipairs(found) do
    local state = state_of(one.id)
    if give_back(one.limit, state, ending, 1) then state.dirty = true end
    waited = waited or state.parked > 0
  end
  if waited then
    for _, one in ipairs(found) do
      note_wake(one.id)
      ring_parked(one)
    end
  end
end

local function parked_in(row) -- its member among those parked under one key: order, queue, id
  return bytes('>dI6I6I2', row.st.rank or 0, due_of(row), row.seq, #row.q.name) .. row.q.name .. row.id
end

local function parked_row(member)
  local n = from_bytes('>I2', member, 21)
  return load(queue_in(member), sub(member, 23 + n))
end

local function park(row, id)
  local _, name, key = parse_key(id)
  row.st.pk, row.st.blocked_on = id, 'limit:' .. name .. ':' .. key
  call('ZADD', SHARD .. ':kp' .. id, -priority_of(row), parked_in(row))
  local state = state_of(id)
  state.parked, state.dirty = state.parked + 1, true
  note_wake(id)
end

local function unpark(row)
  local id = row.st.pk
  if id then
    call('ZREM', SHARD .. ':kp' .. id, row.at_parked or parked_in(row))
    local state = state_of(id)
    state.parked, state.dirty = max(0, state.parked - 1), true
    row.st.pk, row.st.blocked_on = nil, nil
  end
end

-- ------------------------------------------------------------------ limits of a queue itself

local function queue_key(q, limit) return key_id(q.name, 'queue:' .. q.name, limit.type) end

local function queue_room(q)
  local rule, found = queue_rule(q), UNBOUNDED
  for _, limit in ipairs(rule and rule.limits or {}) do
    local state = state_of(queue_key(q, limit))
    if limit.type == 'slots' then state = {used = count_of(q, 'running')} end
    found = min(found, room_of(limit, state))
  end
  return found
end

local function queue_opens(q)
  local rule, found = queue_rule(q), nil
  for _, limit in ipairs(rule and rule.limits or {}) do
    if limit.type ~= 'slots' then
      local state = state_of(queue_key(q, limit))
      local at_ms = opens_at(limit, state)
      if at_ms and room_of(limit, state) == 0 then found = max(found or 0, at_ms) end
    end
  end
  return found
end

local function queue_started(q, n)
  local rule = queue_rule(q)
  if not rule then return end
  for _, limit in ipairs(rule.limits or {}) do
    if limit.type ~= 'slots' then
      local state = state_of(queue_key(q, limit))
      take_from(limit, state, n)
      state.dirty = true
    end
  end
  if rule.max_length then -- ropeway.flow.pace
    local kept = call('HMGET', q.key .. 'h', 'pace', 'pace_since', 'pace_at')
    local since, at_ms = tonumber(kept[2] or now_ms), tonumber(kept[3] or now_ms)
    local pace = tonumber(kept[1] or 0) * math.exp((at_ms - now_ms) / 30000) + n
    call('HSET', q.key .. 'h', 'pace', pace, 'pace_since', since, 'pace_at', now_ms)
  end
end

local function queue_ended(q, ending, n)
  local rule = queue_rule(q)
  for _, limit in ipairs(rule and rule.limits or {}) do
    if limit.type == 'breaker' then
      local state = state_of(queue_key(q, limit))
      if give_back(limit, state, ending, n or 1) then state.dirty = true end
    end
  end
  if rule and rule.limits then ring(q) end
end

-- ------------------------------------------------------------------ turns of tenants

local function turns_of(q, priority)
  q.turns = q.turns or {}
  local turns = q.turns[priority]
  if turns == nil then
    local reached = q.fair and call('HGET', q.key .. 'h', 'reached' .. priority)
    turns = reached and {reached = tonumber(reached), key = q.key .. 't' .. priority} or false
    q.turns[priority] = turns
  end
  return turns
end

local function join_turns(row)
  local traits, priority = row.traits, priority_of(row)
  local turns = not traits.gk and (row.q.fair or traits.fk) and turns_of(row.q, priority)
  if not turns then
    if not traits.fk or traits.gk then
      row.st.rank = nil
      return
    end
    turns = {reached = 0, key = row.q.key .. 't' .. priority}
    row.q.turns[priority], row.q.fair = turns, '1'
    call('HSET', row.q.key .. 'h', 'fair', '1', 'reached' .. priority, '0')
  end
  local tenant = traits.fk or ''
  local last = tonumber(call('HGET', turns.key, tenant) or 0)
  local rank = max(turns.reached, last) + 1 / (traits.fw or 1)
  call('HSET', turns.key, tenant, number(rank))
  row.st.rank = rank
end

local function leave_turns(q, traits)
  local turns = q.fair and not traits.gk and turns_of(q, traits.p or 0)
  local last = turns and call('HGET', turns.key, traits.fk or '')
  if last then call('HSET', turns.key, traits.fk or '', number(tonumber(last) - 1 / (traits.fw or 1))) end
end

local function serve_turns(q, priority, rank)
  local turns = q.fair and turns_of(q, priority)
  if turns and rank > turns.reached then
    turns.reached = rank
    call('HSET', q.key .. 'h', 'reached' .. priority, number(rank))
    if now_ms % 97 == 0 and call('HLEN', turns.key) > 1000 then -- forget whom the queue has passed
      local kept, gone = call('HGETALL', turns.key), {}
      for at = 1, #kept, 2 do
        if tonumber(kept[at + 1]) <= rank then gone[#gone + 1] = kept[at] end
      end
      if #gone > 0 then many('HDEL', turns.key, gone) end
    end
  end
end

-- ------------------------------------------------------------------ batches

local function batch_of(traits) return #traits.t .. ':' .. traits.t .. traits.gk end

local function batch_parts(batch)
  local n, rest = string.match(batch, '^(%d+):(.*)$')
  return sub(rest, 1, n), sub(rest, n + 1)
end

local function note_batch(q, batch) -- when it is ready
  local key = q.key .. 'bd' .. batch
  local size = call('ZCARD', key)
  if size == 0 then return call('ZREM', q.key .. 'bi', batch) end
  local rule = rule_of('group', (batch_parts(batch)))
  local first = tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
  local at_ms = first
  if rule and size < rule.size then
    local last = tonumber(call('ZRANGE', key, -1, -1, 'WITHSCORES')[2])
    at_ms = min(first + rule.within_ms, last + rule.grace_ms)
  end
  call('ZADD', q.key .. 'bi', at_ms, batch)
  q.batch_rings = true
end

local function join_batch(row)
  local batch = batch_of(row.traits)
  row.st.blocked_on = 'group:' .. row.traits.gk
  call('ZADD', row.q.key .. 'bd' .. batch, due_of(row), seq_in(row))
  call('ZADD', row.q.key .. 'bo' .. batch, -priority_of(row), place_in(row))
  note_batch(row.q, batch)
end

local function leave_batch(q, row, traits)
  local batch = batch_of(traits)
  if call('ZREM', q.key .. 'bd' .. batch, seq_in(row)) == 1 then
    call('ZREM', q.key .. 'bo' .. batch, row.at_place or place_in(row))
    note_batch(q, batch)
  end
  row.st.blocked_on = nil
end

at_end[#at_end + 1] = function()
  for _, q in pairs(queues) do
    if q.batch_rings and call('LLEN', q.key .. 'bbell') == 0 then call('RPUSH', q.key .. 'bbell', '1') end
  end
end

function flow.all_rules() -- kind .. "\0" .. name -> {declared, override}
  rule_of('limit', '')
  return rules
end

function flow.known_ids() -- of all keys that have a state, kept or changed by this script
  local found = {}
  for _, id in ipairs(call('HKEYS', SHARD .. ':k')) do found[id] = true end
  for id in pairs(states) do found[id] = true end
  return found
end

function flow.forget_rates(most) -- states of rates that say nothing any more
  for _, id in ipairs(call('ZRANGEBYSCORE', SHARD .. ':kt', '-inf', now_ms, 'LIMIT', 0, most)) do
    state_of(id).dirty = true
    call('ZREM', SHARD .. ':kt', id)
  end
end

function flow.begin_anew(id) -- a key counts from nothing
  states[id] = {used = 0, tat = 0, failures = 0, open_until = 0, parked = 0, dirty = true}
end

flow.rule_of = rule_of
flow.queue_rule = queue_rule
flow.room_of = room_of
flow.take_from = take_from
flow.opens_at = opens_at
flow.is_idle = is_idle
flow.parse_key = parse_key
flow.state_of = state_of
flow.ids_of = ids_of
flow.wakes_of = wakes_of
flow.note_wake = note_wake
flow.start_limits = start_limits
flow.end_limits = end_limits
flow.parked_in = parked_in
flow.parked_row = parked_row
flow.park = park
flow.unpark = unpark
flow.queue_key = queue_key
flow.queue_room = queue_room
flow.queue_opens = queue_opens
flow.queue_started = queue_started
flow.queue_ended = queue_ended
flow.number = number
flow.join_turns = join_turns
flow.leave_turns = leave_turns
flow.serve_turns = serve_turns
flow.batch_parts = batch_parts
flow.note_batch = note_batch
flow.join_batch = join_batch
flow.leave_batch = leave_batch

end
