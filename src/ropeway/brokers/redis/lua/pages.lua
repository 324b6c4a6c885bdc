-- Pages list the records of a queue in the order of seq, some hundreds each, for `find`.
local PAGE = 500

local function list_ids(q, first, ids) -- new records with seqs from `first` on
  local at = 1
  while at <= #ids do
    if not q.page or q.paged >= PAGE then
      if not q.page then call('SADD', SHARD .. ':queues', q.name) end
      q.page, q.paged = format('%.0f', first + at - 1), 0
      call('ZADD', q.key .. 'pz', q.page, q.page)
    end
    local n = min(#ids - at + 1, PAGE - q.paged)
    call('RPUSH', q.key .. 'pg' .. q.page, unpack(ids, at, at + n - 1))
    q.paged, at = q.paged + n, at + n
  end
  call('HSET', q.key .. 'h', 'page', q.page, 'paged', q.paged)
end

local function unlist_seqs(q, seqs) -- records that are gone; their pages go with the last of each
  local at = 1
  while at <= #seqs do
    local first = format('%.0f', seqs[at])
    local page = call('ZREVRANGEBYSCORE', q.key .. 'pz', first, '-inf', 'LIMIT', 0, 1)[1]
    local beyond = tonumber(call('ZRANGEBYSCORE', q.key .. 'pz', '(' .. first, '+inf', 'LIMIT', 0, 1)[1])
    local n, from = 0, tonumber(page)
    while at <= #seqs and seqs[at] >= from and (not beyond or seqs[at] < beyond) do
      n, at = n + 1, at + 1
    end
    if call('HINCRBY', q.key .. 'pl', page, n) >= call('LLEN', q.key .. 'pg' .. page) then
      call('HDEL', q.key .. 'pl', page)
      call('ZREM', q.key .. 'pz', page)
      call('DEL', q.key .. 'pg' .. page)
      if page == q.page then
        q.paged = PAGE -- the next record begins a new one
        call('HSET', q.key .. 'h', 'paged', PAGE)
      end
    end
  end
end
