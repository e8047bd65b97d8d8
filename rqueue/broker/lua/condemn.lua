-- condemn: a worker's process is known to be dead: its lease ends now, so that its list can be reaped at once.
--
-- KEYS[1] workers  ZSET  worker -> end of its lease
-- ARGV[1] worker
-- returns 1 condemned | 0 not registered: it has left, or was reaped
--
-- Only for whoever has seen the process end (waitpid). A command of the dead worker that was still on its way, and that
-- renews the lease after this, is answered by condemning again. May be repeated.
local workers, worker = KEYS[1], ARGV[1]
if redis.call('ZREM', workers, worker) == 0 then return 0 end -- a freeing write first: it works in a full Redis
redis.call('ZADD', workers, 0, worker)
return 1
