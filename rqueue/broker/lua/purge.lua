-- purge: waiting jobs are thrown away.
--
-- KEYS[1] jobs       SET   ids of jobs that are not settled
-- KEYS[2] main       LIST
-- KEYS[3..12] p1 … p10  LIST
-- ARGV[1] how many at most, so that Redis is never held for long
-- returns how many were; 0 when nothing waits
local jobs, left, gone = KEYS[1], tonumber(ARGV[1]), 0
for i = 2, #KEYS do
  while gone < left do
    local message = redis.call('RPOP', KEYS[i])
    if not message then break end
    local id = string.match(message, '^1 %S+ %d+ %d+ %d+ (%S+) {')
    if id then redis.call('SREM', jobs, id) end
    if message ~= '' then gone = gone + 1 end
  end
end
return gone
