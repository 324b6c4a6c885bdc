-- Write how runs ended. head: {segment, ...}; then their arguments; see settle.lua.
-- Returns, in MessagePack, for each segment 0 (all settled) or {answer, ...}: 0 ok, 1 already, 2 lost.
local segments = decode(ARGV[2])
do
  local answers = settle_short(segments, ARGV, 3)
  if answers then
    finish()
    return encode(answers)
  end
end
