-- Hand out jobs. head: {worker, limit, lease_ms, queues, weights, credits, first, beside}; see reserve.lua.
-- Returns the meta {token, until_ms, cut_short, sleep_ms, credits, first, {queue, n, ...}} in
-- MessagePack, then id, words and status of each job.
local request = decode(ARGV[2])
do
  local meta = reserve_short(request)
  if meta then
    finish()
    return leases(meta)
  end
end
