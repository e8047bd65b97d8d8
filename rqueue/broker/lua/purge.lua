-- purge: waiting jobs are thrown away.
--
-- KEYS[1] jobs       SET   ids of jobs that are not settled
-- KEYS[2] main       LIST
-- KEYS[3..12] p1 … p10  LIST
-- KEYS[13] stops     ZSET  what must not run: what is thrown away leaves none
-- ARGV[1] how many at most, so that Redis is never held for long
-- returns how many were; 0 when nothing waits
--
-- In a paused queue the tokens stay: a blocking pop on its way must take one, and not wait for the next job.
local jobs, main, left, gone, tokens = KEYS[1], KEYS[2], tonumber(ARGV[1]), 0, 0
local stops = redis.call('EXISTS', KEYS[13]) == 1 and KEYS[13]
for i = 2, 12 do
  while gone < left do
    local message = redis.call('RPOP', KEYS[i])
    if not message then break end
    local id = string.match(message, '^1 %S+ %d+ %d+ %d+ (%S+) {')
    if id then redis.call('SREM', jobs, id) end
    if id and stops then redis.call('ZREM', stops, 'job:' .. id) end
    if message ~= '' then gone = gone + 1 else tokens = tokens + 1 end
  end
end
if stops and tokens > 0 and (redis.call('ZSCORE', stops, 'queue') or redis.call('ZSCORE', stops, 'all')) then
  for _ = 1, tokens do redis.call('RPUSH', main, '') end
end
return gone
