-- Hand out one batch. head: {worker, lease_ms, queues}. Returns as the script of reserve.
local worker, lease_ms, names = unpack(decode(ARGV[2]))
ask(worker, 1, lease_ms)
local waiting = {}
for _, name in ipairs(names) do
  local q = queue_of(name)
  if not q.paused then
    waiting[#waiting + 1] = q
    promote(q, 1000)
  end
end

local function first_batch() -- the one that is ready first: when, queue, batch
  local at_ms, found, place
  for _, q in ipairs(waiting) do
    local head = call('ZRANGE', q.key .. 'bi', 0, 0, 'WITHSCORES')
    local ms = tonumber(head[2])
    if ms and (not at_ms or ms < at_ms) then at_ms, found, place = ms, q, head[1] end
  end
  return at_ms, found, place
end

local sleep_ms
while taken_n == 0 do
  local at_ms, q, batch = first_batch()
  if not at_ms or at_ms > now_ms then
    if at_ms then sleep_ms = at_ms - now_ms end
    break
  end
  local rule, ids, run = flow.rule_of('group', (flow.batch_parts(batch))), {}, {}
  for at, member in ipairs(call('ZRANGE', q.key .. 'bo' .. batch, 0, (rule and rule.size or 1) - 1)) do
    ids[at] = sub(member, 13)
  end
  for _, row in ipairs(load_all(q, ids)) do
    local late = overdue(row)
    if late then
      bury_overdue(row, late)
    else
      open(row)
      flow.leave_batch(q, row, row.traits)
      start(row)
      run[#run + 1] = {id = row.id, row = row}
    end
  end
  if #run > 0 then begin_runs(q, run) end
end
if taken_n == 0 then
  for _, q in ipairs(waiting) do
    call('DEL', q.key .. 'bbell')
    local due = tonumber(call('ZRANGE', q.key .. 'd', 0, 0, 'WITHSCORES')[2])
    if due then sleep_ms = min(sleep_ms or due - now_ms, max(0, due - now_ms)) end
  end
end
finish()
return leases(meta_of(false, sleep_ms))
