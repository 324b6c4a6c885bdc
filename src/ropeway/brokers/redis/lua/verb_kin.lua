-- Edges between jobs of different shards, in steps that may be repeated. head: {verb, ...}.
--   link, parent, queue, child    the child waits for the parent, which may be here or come here:
--                                 returns "none", or the parent's state
--   unlink, parent, queue, child  the child does not need the parent, or has found it elsewhere
--   told, child, parent, what     the parent is completed, failed, reopened, or (linked) will tell:
--                                 returns 1 if that changed the child's state
--   await, child, parent          the child waits for one parent more, if it is pending; returns 1
--   waits                         returns {child, parent, "waits" or "over", ...}: waits for jobs
--                                 that may be elsewhere
--   state, id                     returns the state of a job, or "none"
local verb, a, b, c = unpack(decode(ARGV[2]))
local reply = 0

if verb == 'link' then
  local parent = find(a)
  reply = parent and parent.st.state or 'none'
  add_child(a, b, c)
elseif verb == 'unlink' then
  disown(a, b, c)
  local parent = find(a)
  if parent then drop_unretained(parent) end
elseif verb == 'state' then
  local row = find(a)
  reply = row and row.st.state or 'none'
elseif verb == 'told' then
  local child = find(a)
  call('HDEL', SHARD .. ':fw', encode({a, b}))
  if child and c == 'reopened' then
    reopen(child, b)
  elseif child and child.st.state == 'pending' and waits_for(child, b) then
    if c == 'completed' then
      parent_completed(child, b)
      reply = 1
    elseif c == 'failed' and parent_failed(child, b) then
      reply = 1
    end
  end
elseif verb == 'await' then
  local child = find(a)
  if child and child.st.state == 'pending' then
    wait_for(child, b)
    call('HSET', SHARD .. ':fw', encode({a, b}), now_ms)
    reply = 1
  end
elseif verb == 'waits' then
  reply = {}
  for _, field in ipairs(call('HKEYS', SHARD .. ':fw')) do
    local child_id, parent_id = unpack(decode(field))
    local child = find(child_id)
    local n, waits = #reply, child and child.st.state == 'pending' and waits_for(child, parent_id)
    reply[n + 1], reply[n + 2], reply[n + 3] = child_id, parent_id, waits and 'waits' or 'over'
    if not waits then call('HDEL', SHARD .. ':fw', field) end
  end
end
finish()
return reply
