-- pause: a queue, or a task in it, runs no more: every worker is told before it takes another job.
--
-- KEYS[1] stops    ZSET  what must not run, all at score 0
-- KEYS[2] workers  ZSET  worker -> end of its lease
-- KEYS[3] main     LIST
-- ARGV[1] what: queue | all | task:<name>
-- returns 1 it is paused now | 0 it was paused already
--
-- A worker has at most one blocking pop here, at the server or on its way, that follows a claim from before this step.
-- As many tokens as there are workers stand at the end that is read: each of these pops takes one of them and no job,
-- and the claim that follows it learns of the pause. May be repeated.
local stops, workers, main = KEYS[1], KEYS[2], KEYS[3]
redis.call('ZREM', stops, '') -- writes nothing, and lets a full Redis accept what follows
local is_new = redis.call('ZADD', stops, 0, ARGV[1])
local kind = redis.call('TYPE', main).ok
if kind == 'list' or kind == 'none' then
  while redis.call('LINDEX', main, -1) == '' do redis.call('RPOP', main) end
  for _ = 1, redis.call('ZCARD', workers) do redis.call('RPUSH', main, '') end
end
return is_new
