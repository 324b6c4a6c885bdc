local gone, found = {}, {}
for _, id in ipairs(head) do gone[id] = true end
for _, name in ipairs(all_queues()) do
  local q = queue_of(name)
  for _, of_group in ipairs(call('ZRANGE', q.key .. 'l', 0, -1)) do
    for _, row in ipairs(load_all(q, call('LRANGE', q.key .. 'g' .. of_group, 0, -1))) do
      if row and row.st.state == 'running' and row.st.lg == tonumber(of_group) and gone[row.st.worker] then
        found[#found + 1] = row
      end
    end
  end
end
table.sort(found, function(a, b) return a.seq < b.seq end)
for _, row in ipairs(found) do
  lease_expired(row)
  drop_unretained(row)
end
if #head > 0 then call('HDEL', key, unpack(head)) end
finish()
return #found
