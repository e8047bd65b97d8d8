-- resume: a queue, or a task in it, runs again.
--
-- KEYS[1] stops    ZSET  what must not run, all at score 0
-- KEYS[2] workers  ZSET  worker -> end of its lease
-- KEYS[3] main     LIST
-- ARGV[1] what: queue | all | task:<name>
-- returns 1 it was paused | 0 it was not
--
-- The tokens that the pause left go, unless something else stops the queue: then they are still needed. A token in an
-- empty main list makes workers look at the priorities' lists. May be repeated.
local stops, workers, main = KEYS[1], KEYS[2], KEYS[3]
local gone = redis.call('ZREM', stops, ARGV[1])
if redis.call('ZSCORE', stops, 'queue') or redis.call('ZSCORE', stops, 'all') then return gone end
local kind = redis.call('TYPE', main).ok
if kind == 'list' or kind == 'none' then
  while redis.call('LINDEX', main, -1) == '' do redis.call('RPOP', main) end
  if redis.call('EXISTS', main) == 0 and redis.call('ZCARD', workers) > 0 then redis.call('LPUSH', main, '') end
end
return gone
