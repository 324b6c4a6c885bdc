answers = answers or settle(segments, ARGV, 3)
local meta = reserve(request)
finish()
return exchanged(meta)
