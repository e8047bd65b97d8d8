-- start: claimed jobs are marked as started, so that only they are charged if the worker dies.
--
-- KEYS[1] workers  ZSET  worker -> end of its lease
-- KEYS[2] started  SET   ids of the worker's claimed jobs that have started
-- ARGV[1] worker
-- ARGV[2..] ids
-- returns 1 marked | 0 the worker is not registered
--
-- Sent before the jobs start, and not waited for: what the kernel has, it delivers even if the process dies.
local workers, started = KEYS[1], KEYS[2]
if not redis.call('ZSCORE', workers, ARGV[1]) then return 0 end
redis.call('SREM', started, '') -- writes nothing, and lets a full Redis accept the next line
for i = 2, #ARGV, 5000 do redis.call('SADD', started, unpack(ARGV, i, math.min(i + 4999, #ARGV))) end
return 1
