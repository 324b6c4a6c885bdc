-- Store a job that came with an ack in another shard, unless it is there. head: {queue, id};
-- then traits, task and payload, rest. Returns 1 if it was stored.
local name, id = unpack(decode(ARGV[2]))
local refused = enqueue_one(queue_of(name), id, decode(ARGV[3]), ARGV[4], ARGV[5], false)
finish()
return refused and 0 or 1
