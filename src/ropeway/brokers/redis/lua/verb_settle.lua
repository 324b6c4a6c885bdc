-- Write how runs ended. head: {segment, ...}; then their arguments; see settle.lua.
-- Returns, in MessagePack, for each segment 0 (all settled) or {answer, ...}: 0 ok, 1 already, 2 lost.
local answers = settle(decode(ARGV[2]), ARGV, 3)
finish()
return encode(answers)
