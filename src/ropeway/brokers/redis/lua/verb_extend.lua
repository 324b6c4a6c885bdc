-- Prolong leases. head: {lease_ms, {queue, id, token, has progress, has saved}, ...}; then those.
-- Returns, in MessagePack, {until_ms, answer, ...}: 0 ok, 1 lost, 2 cancel requested, 3 paused.
local beats, from = decode(ARGV[2]), 3
local until_ms = mono_ms + table.remove(beats, 1)
local reply, held_by = {until_ms}, {}
for at, beat in ipairs(beats) do
  local q = queue_of(beat[1])
  local row = held(q, beat[2], beat[3])
  local progress, saved
  if beat[4] then progress, from = ARGV[from], from + 1 end
  if beat[5] then saved, from = ARGV[from], from + 1 end
  if not row then
    reply[at + 1] = 1
  else
    local st = row.st
    if not row.prolonged then
      row.prolonged = true
      lease_ended(q, st.lg)
      held_by[q] = held_by[q] or {}
      table.insert(held_by[q], row)
    end
    st.lease_until_ms, st.progress, st.saved = until_ms, progress or st.progress, saved or st.saved
    reply[at + 1] = st.cancel_requested and 2 or (q.paused and 3 or 0)
  end
end
for q, of_queue in pairs(held_by) do
  local ids = {}
  for at, row in ipairs(of_queue) do ids[at] = row.id end
  local of_group = lease_group(q, ids, until_ms)
  for _, row in ipairs(of_queue) do
    row.st.lg = of_group
    save(row)
  end
end
finish()
return encode(reply)
