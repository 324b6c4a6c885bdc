-- What a waiter has been told so far. head: {waiter}.
-- Returns, for each end: queue, id, words and status; "" and "" where the record is gone,
-- "" and its new queue where a job has moved and is still waited for.
local list = SHARD .. ':wl' .. decode(ARGV[2])[1]
local told = call('LRANGE', list, 0, -1)
call('DEL', list, list .. ':bell')
return told
