-- Records of queues, newest first. head: {queues or false, below this seq or false, at most}.
-- Returns for each: queue, id, words, status; fewer than asked for: there are no more.
local names, below, most = unpack(decode(ARGV[2]))
local reply, streams = {}, {}

local function older_page(stream) -- the ids of the next page that has any below the seq
  local top = stream.below and '(' .. format('%.0f', stream.below) or '+inf'
  local page = call('ZREVRANGEBYSCORE', stream.q.key .. 'pz', top, '-inf', 'LIMIT', 0, 1)[1]
  if not page then return false end
  local beyond = stream.below
  stream.below = tonumber(page)
  local ids, listed = call('LRANGE', stream.q.key .. 'pg' .. page, 0, -1), {}
  stream.rows = {}
  for _, row in ipairs(load_all(stream.q, ids)) do -- an id that was given again is in two places
    if row and not row.st.mv and (not beyond or row.seq < beyond) and row.seq >= stream.below and not listed[row.seq] then
      listed[row.seq] = true
      stream.rows[#stream.rows + 1] = row
    end
  end
  table.sort(stream.rows, function(a, b) return a.seq < b.seq end)
  return true
end

local function head_of(stream)
  while #stream.rows == 0 do
    if stream.moved then
      return nil
    elseif not older_page(stream) then
      return nil
    end
  end
  return stream.rows[#stream.rows]
end

for _, name in ipairs(names or all_queues()) do
  local q = queue_of(name)
  streams[#streams + 1] = {q = q, rows = {}, below = below and below or nil}
  local moved = {}
  local top = below and '(' .. format('%.0f', below) or '+inf'
  for at, member in ipairs(call('ZREVRANGEBYSCORE', q.key .. 'pm', top, '-inf', 'LIMIT', 0, most)) do
    moved[at] = id_in(member)
  end
  if #moved > 0 then
    local found = {}
    for _, row in ipairs(load_all(q, moved)) do table.insert(found, 1, row) end
    streams[#streams + 1] = {q = q, rows = found, moved = true}
  end
end
while #reply < 4 * most do
  local newest
  for _, stream in ipairs(streams) do
    local row = head_of(stream)
    if row and (not newest or row.seq > newest.rows[#newest.rows].seq) then newest = stream end
  end
  if not newest then break end
  local row = table.remove(newest.rows)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = row.q.name, row.id, row.words, row.packed or ''
end
return reply
