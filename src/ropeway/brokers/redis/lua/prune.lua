-- Removing many records at once: those without traces elsewhere go by the hundred.

local function keep_for_now(row) -- a record that an unfinished job needs
  call('ZADD', row.q.key .. 'p', now_ms + 1000, seq_in(row))
  if row.st.state == 'completed' then call('ZADD', row.q.key .. 'c', row.st.finished_at_ms, seq_in(row)) end
  hear(':aw', 'p', row.q, now_ms + 1000)
  tell_abroad(row.q.name, row.id, 'asked')
end

local function forget_plain(q, state, ids, seqs)
  if #ids == 0 then return end
  if q.drop then
    local members = {}
    for at, id in ipairs(ids) do members[at] = bytes('>I6', seqs[at]) .. id end
    many('ZREM', q.key .. 'od', members)
  end
  many('HDEL', q.key .. 'j', ids)
  many('HDEL', q.key .. 's', ids)
  for _, id in ipairs(ids) do rows[q.key .. id] = nil end
  unlist_seqs(q, seqs)
  add_count(q, state, -#ids)
end

local function prune_usual(q, until_ms, most, is_purge) -- the oldest of `f`, finished by then; how many
  local done = 0
  while done < most do
    local ids = call('LRANGE', q.key .. 'f', 0, min(most - done, 500) - 1)
    if #ids == 0 then break end
    local words, statuses = hash_values(q.key .. 'j', ids), hash_values(q.key .. 's', ids)
    local kinds, plain, seqs, n = {}, {}, {}, 0
    local others = {}
    for at, id in ipairs(ids) do
      local packed = statuses[at]
      local kind = packed and (kinds[packed] or unpack_status(packed))
      if kind then
        kinds[packed] = kind
        if (kind.finished_at_ms or 0) > until_ms then break end
        if kind.tr or kind.ki or kind.old or kind.evb or kind.mv or has_kin or some_wait then
          others[#others + 1] = id
        else
          plain[#plain + 1], seqs[#seqs + 1] = id, from_bytes('>I6', words[at])
        end
      end
      n = at
    end
    if n == 0 then break end
    call('LPOP', q.key .. 'f', n)
    forget_plain(q, 'completed', plain, seqs)
    done = done + #plain
    for _, row in ipairs(load_all(q, others)) do
      if row and row.st.state == 'completed' then
        if is_needed(row) and not is_purge then
          keep_for_now(row)
        else
          forget(row)
          done = done + 1
        end
      end
    end
    if n < #ids then break end
  end
  return done
end

local function purge_untouched(q, priority, most) -- jobs that nobody has started; how many
  local done = 0
  while done < most do
    local ids = call('LPOP', q.key .. 'r' .. priority, min(most - done, 500))
    if not ids then break end
    local words, statuses = hash_values(q.key .. 'j', ids), hash_values(q.key .. 's', ids)
    local plain, seqs = {}, {}
    for at, id in ipairs(ids) do
      if words[at] and not statuses[at] and not (has_kin or some_wait or q.fair) then
        plain[#plain + 1], seqs[#seqs + 1] = id, from_bytes('>I6', words[at])
      else
        local row = load(q, id)
        if row and row.fresh then
          open(row)
          row.st.old = nil
          add_stale(q, -1)
          forget(row)
          done = done + 1
        elseif row and row.st.old then
          row.st.old = nil
          save(row)
          add_stale(q, -1)
        end
      end
    end
    forget_plain(q, 'available', plain, seqs)
    done = done + #plain
  end
  return done
end
