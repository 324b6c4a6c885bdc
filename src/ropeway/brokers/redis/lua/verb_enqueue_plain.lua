-- The short way: store jobs of one or more calls that are light, where nothing stands in the way.
-- head: {{call id, ...}, segment, ...}, no id twice; then the arguments of the segments.
-- Returns 1; or 0 if a call or an id is known, or a queue has rules: then nothing was written, and
-- the calls go the long way, each by itself.
local segments = decode(ARGV[2])
local call_ids = table.remove(segments, 1)
local parts, from = {}, 3

if #call_ids > 0 then
  local _, some = known_calls(call_ids)
  if some then return 0 end
end
for place, segment in ipairs(segments) do
  local jobs
  jobs, from = read_segment(segment, ARGV, from)
  if jobs.q.fair or jobs.q.drop or jobs.q.ruled then return 0 end
  for _, words in ipairs(hash_values(jobs.q.key .. 'j', jobs.ids)) do
    if words then return 0 end
  end
  parts[place] = jobs
end
for _, jobs in ipairs(parts) do add_light(jobs) end
if #call_ids > 0 then note_calls(call_ids) end
finish()
return 1
