-- What is enforced. head: {verb, force, {kind, name}, ...}; with "declare" and "override", a rule in
-- MessagePack for each as arguments.
--   declare, override: returns {} or, nothing written, {"undeclared", kind, name, known...} or
--                      {"few", place, slots, used}
--   adopt: as "list" gave them in another shard; returns {}
--   check: as "override", but nothing is written
--   reset: returns {how many there were}      list: returns {name, rule, ...} (kind "\0" name)
-- All in MessagePack but for "list".
local head = decode(ARGV[2])
local verb, force = table.remove(head, 1), table.remove(head, 1)
if verb == 'list' then return call('HGETALL', SHARD .. ':rl') end

RULED = '1' -- from here on, whatever was before
local rules = flow.all_rules()

local function running_rows()
  local found = {}
  for _, name in ipairs(all_queues()) do
    local q = queue_of(name)
    for _, of_group in ipairs(call('ZRANGE', q.key .. 'l', 0, -1)) do
      for _, row in ipairs(load_all(q, call('LRANGE', q.key .. 'g' .. of_group, 0, -1))) do
        if row and row.st.state == 'running' and row.st.lg == tonumber(of_group) then found[#found + 1] = row end
      end
    end
  end
  return found
end

local function ids_named(limit_name)
  local found = {}
  for id in pairs(flow.known_ids()) do
    local _, name = flow.parse_key(id)
    if name == limit_name then found[#found + 1] = id end
  end
  table.sort(found)
  return found
end

local function used_of(rule) -- the limits of the rule, and how many slots are in use
  if rule.type == 'limit' then
    local most = 0
    for _, id in ipairs(ids_named(rule.name)) do most = max(most, flow.state_of(id).used) end
    return {rule.limit}, most
  elseif rule.type == 'queue' then
    return rule.limits or {}, count_of(queue_of(rule.name), 'running')
  end
  return {}, 0
end

local function refused(given)
  for at, rule in ipairs(given) do
    local known = rules[head[at][1] .. '\0' .. rule.name]
    if rule.type ~= 'queue' and not (known and known.declared) then
      local names = {}
      for key in pairs(rules) do
        local kind, name = string.match(key, '^(%l+)%z(.*)$')
        if kind == rule.type then names[#names + 1] = name end
      end
      table.sort(names)
      return {'undeclared', rule.type, rule.name, unpack(names)}
    end
    local limits, used = used_of(rule)
    for _, limit in ipairs(force and {} or limits) do
      if limit.type == 'slots' and limit.n < used then return {'few', at, limit.n, used} end
    end
  end
  return nil
end

local function recount(name, rule) -- begin anew with what runs now
  for _, id in ipairs(ids_named(name)) do
    for _, member in ipairs(call('ZRANGE', SHARD .. ':kp' .. id, 0, -1)) do
      local row = flow.parked_row(member)
      flow.unpark(row)
      if row.traits.o then
        row.open = true
        update_line(row)
        row.open = nil
      end
      push_ready(row)
      save(row)
    end
    call('ZREM', SHARD .. ':w', id)
    flow.begin_anew(id)
  end
  if rule.limit.type == 'slots' then
    for _, row in ipairs(running_rows()) do
      for _, one in ipairs(flow.ids_of(row)) do
        local _, of_limit = flow.parse_key(one.id)
        if of_limit == name then
          flow.take_from(rule.limit, flow.state_of(one.id), 1)
          flow.state_of(one.id).dirty = true
        end
      end
    end
  end
end

local function changed(kind, name, before)
  local info = rules[kind .. '\0' .. name]
  local rule = info and (info.override or info.declared)
  if kind == 'limit' and rule then
    if not before or before.limit.type ~= rule.limit.type or before.scope ~= rule.scope then recount(name, rule) end
    for _, id in ipairs(ids_named(name)) do flow.note_wake(id) end
  elseif kind == 'group' then
    for _, queue in ipairs(all_queues()) do
      local q = queue_of(queue)
      for _, batch in ipairs(call('ZRANGE', q.key .. 'bi', 0, -1)) do
        if flow.batch_parts(batch) == name then flow.note_batch(q, batch) end
      end
    end
  end
end

local function set(kind, name, declared, override)
  local key = kind .. '\0' .. name
  local before = flow.rule_of(kind, name)
  if declared or override then
    rules[key] = {declared = declared, override = override}
    call('HSET', SHARD .. ':rl', key, encode(rules[key]))
  else
    rules[key] = nil
    call('HDEL', SHARD .. ':rl', key)
  end
  if kind == 'queue' then
    local q = queue_of(name)
    q.ruled = (declared or override) and '1' or nil
    if q.ruled then call('HSET', q.key .. 'h', 'ruled', '1') else call('HDEL', q.key .. 'h', 'ruled') end
  end
  changed(kind, name, before)
end

local given, reply = {}, {}
for at = 1, #head do given[at] = ARGV[2 + at] and decode(ARGV[2 + at]) end
local refusal = (verb == 'override' or verb == 'check') and refused(given)
if refusal or verb == 'check' then return encode(refusal or {}) end
if verb == 'adopt' then
  for at = 3, #ARGV, 2 do
    local kind, name = string.match(ARGV[at], '^(%l+)%z(.*)$')
    local info = decode(ARGV[at + 1])
    set(kind, name, info.declared, info.override)
  end
end
local count = 0
for at, one in ipairs(head) do
  local kind, name = unpack(one)
  local known = rules[kind .. '\0' .. name] or {}
  if verb == 'declare' then
    set(kind, name, given[at], known.override)
  elseif verb == 'override' then
    set(kind, name, known.declared, given[at])
  elseif known.override then
    set(kind, name, known.declared, nil)
    count = count + 1
  end
end
if call('EXISTS', SHARD .. ':rl') == 1 then call('HSET', SHARD .. ':m', 'rules', '1') else call('HDEL', SHARD .. ':m', 'rules') end
for _, name in ipairs(all_queues()) do
  ring(queue_of(name))
  queue_of(name).batch_rings = true
end
finish()
return encode(verb == 'reset' and {count} or {})
