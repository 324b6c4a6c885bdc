-- What a failed parent means for a child that waits for it.
local function parent_failed(child, parent_id) -- whether the child changed
  local then_do = child.traits.of or 'cancel'
  if then_do == 'wait' then return false end
  if then_do == 'run' then
    parent_completed(child, parent_id)
  else
    open(child)
    child.st.state, child.st.finished_at_ms, child.st.reason = 'cancelled', now_ms, 'parent_failed:' .. parent_id
    put(child)
  end
  drop_unretained(child)
  return true
end
