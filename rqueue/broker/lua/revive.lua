-- revive: a dead letter becomes a waiting job again, under its id.
--
-- KEYS[1] dead     ZSET  id -> time of death in ms
-- KEYS[2] letters  HASH  id -> dead letter
-- KEYS[3] jobs     SET   ids of jobs that are not settled
-- KEYS[4] result   STR   the job's record: gone, since the job is pending again
-- KEYS[5] main     LIST
-- KEYS[6..15] p1 … p10  LIST
-- KEYS[16] stops   ZSET  what must not run
-- ARGV[1] id in the dead letters, ARGV[2] the letter that was read, ARGV[3] id of the job, ARGV[4] message, ARGV[5] level
-- returns 1 waiting | 0 the letter has gone or has changed | 2 a job of that id is alive: the letter stays
--         | 3 a stop is left of an earlier job of that id: the letter stays; forget it first
local dead, letters, jobs, main = KEYS[1], KEYS[2], KEYS[3], KEYS[5]
if redis.call('HGET', letters, ARGV[1]) ~= ARGV[2] then return 0 end
local kind = redis.call('TYPE', KEYS[5 + tonumber(ARGV[5])]).ok
if kind ~= 'list' and kind ~= 'none' then return redis.error_reply('WRONGTYPE a waiting list holds a ' .. kind) end
if redis.call('SISMEMBER', jobs, ARGV[3]) == 1 then return 2 end
if redis.call('ZSCORE', KEYS[16], 'job:' .. ARGV[3]) then return 3 end
redis.call('SADD', jobs, ARGV[3])
redis.call('HDEL', letters, ARGV[1])
redis.call('ZREM', dead, ARGV[1])
redis.call('DEL', KEYS[4])
redis.call('LPUSH', KEYS[5 + tonumber(ARGV[5])], ARGV[4])
if redis.call('EXISTS', main) == 0 then redis.call('LPUSH', main, '') end
return 1
