-- Every queue that has records or is paused. Returns, in MessagePack, for each
-- {name, paused, {state = n}, oldest due time or false}.
local STATES = {'pending', 'scheduled', 'available', 'running', 'retryable', 'completed', 'dead', 'cancelled'}
local LOOKED_AT = 1000 -- so many of the first jobs of each priority are looked at for the oldest
local reply = {}
for _, name in ipairs(all_queues()) do
  local q, counts, some = queue_of(name), {}, false
  for at, n in ipairs(call('HMGET', q.key .. 'h', unpack(STATES))) do
    if tonumber(n or 0) > 0 then counts[STATES[at]], some = tonumber(n), true end
  end
  if some or q.paused then
    local oldest
    local function older(row)
      if row and (row.st.state == 'available') and (not oldest or due_of(row) < oldest) then oldest = due_of(row) end
    end
    for priority = q.top, 0, -1 do
      local fresh_list, at = q.key .. 'r' .. priority, 0
      while at < LOOKED_AT do
        local id = call('LINDEX', fresh_list, at)
        local row = id and load(q, id)
        if row and row.fresh then older(row) end
        if not id or (row and row.fresh) then break end
        at = at + 1
      end
      local others = call('ZRANGE', q.key .. 'e' .. priority, 0, q.fair and LOOKED_AT or 0)
      for _, member in ipairs(others) do
        local due = from_bytes('>I6', member)
        if not oldest or due < oldest then oldest = due end
      end
    end
    reply[#reply + 1] = {name, q.paused and true or false, some and counts or false, oldest or false}
  end
end
return encode(reply)
