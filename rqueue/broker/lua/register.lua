-- register: a worker gets a lease; the only verb that adds one.
--
-- KEYS[1] processing  LIST  what this worker will claim: must not exist yet
-- KEYS[2] workers     ZSET  worker -> end of its lease
-- ARGV[1] worker, ARGV[2] lease in ms
-- returns Redis's time in ms | 0 the id was used before: take another
local processing, workers = KEYS[1], KEYS[2]
if redis.call('EXISTS', processing) == 1 then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREM', workers, ARGV[1]) -- a freeing write first, so that a worker can join a full Redis
redis.call('ZADD', workers, now + tonumber(ARGV[2]), ARGV[1])
return now
