-- A waiting job goes to a queue in another shard. head: {"out", id, queue}: it leaves for the
-- outbox, all in one step; {"in", queue, id}, with words, status and children as arguments: it
-- arrives, unless it is there already; {"room", queue, id, unique key or false}: who is in its way there.
-- Returns {answer, state, text} as `act`, 1 or 0, or the text.
local verb, a, b, c = unpack(decode(ARGV[2]))
local reply = 0
if verb == 'room' then
  local q = queue_of(a)
  if load(q, b) then return 'queue ' .. a .. ' has a job of this id' end
  local holder = c and holder_of(q, c)
  return holder and 'unique key ' .. c .. ' is held by job ' .. holder.id or ''
elseif verb == 'out' then
  local row = find(a)
  if not row then return {2, '', ''} end
  local state = row.st.state
  if not WAITING[state] then return {3, state, 'not possible for a job that is ' .. state} end
  local st = {}
  for name, value in pairs(row.st) do st[name] = value end
  st.pk, st.blocked_on, st.rank, st.old, st.evb, st.mv = nil, nil, nil, nil, nil, 1
  post('move', b, a, row.words, pack_status(st), encode(children_of(a)))
  open(row)
  row.moves = true
  forget(row)
  if has_kin then set_children(a, {}) end
  reply = {0, state, ''}
else
  local q = queue_of(a)
  if not load(q, b) then
    local row = row_of(q, b, ARGV[3], ARGV[4])
    row.fresh, row.open, row.was, row.old_traits, row.old_q = nil, true, nil, row.traits, q
    row.st.mv = 1
    call('SADD', SHARD .. ':queues', a)
    call('ZADD', q.key .. 'pm', row.seq, seq_in(row))
    call('HSET', q.key .. 'j', b, row.words)
    local parents = row.st.ki or {}
    row.st.ki = nil
    for _, parent_id in ipairs(parents) do adopt(parent_id, row) end
    for _, parent_id in ipairs(row.st.waiting_on or {}) do
      call('HSET', SHARD .. ':fw', encode({b, parent_id}), now_ms)
    end
    put(row)
    local refs = decode(ARGV[5])
    for at = 1, #refs, 2 do add_child(b, refs[at], refs[at + 1]) end
    reply = 1
  end
end
finish()
return reply
