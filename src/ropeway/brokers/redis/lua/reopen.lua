-- A failed parent gets another try: the children that its failure cancelled wait for it again.
local reopen_children

local function reopen(child, parent_id)
  if child.st.state ~= 'cancelled' or child.st.reason ~= 'parent_failed:' .. parent_id then return end
  local waiting_on = {parent_id}
  for _, id in ipairs(child.st.waiting_on or {}) do
    if id ~= parent_id and not is_completed(id) then waiting_on[#waiting_on + 1] = id end
  end
  open(child)
  child.st.state, child.st.waiting_on = 'pending', waiting_on
  child.st.finished_at_ms, child.st.reason = nil, nil
  put(child)
  reopen_children(child)
end

function reopen_children(parent)
  tell_abroad(parent.q.name, parent.id, 'reopened')
  for _, child in ipairs(child_rows(parent.id)) do reopen(child, parent.id) end
end
