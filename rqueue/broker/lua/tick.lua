-- tick: a periodic schedule that is due enqueues its jobs, once however many workers look at it.
--
-- KEYS[1] periodic  ZSET  name -> when it is looked at next, in ms
-- KEYS[2] entries   HASH  name -> the schedule
-- KEYS[3] jobs      SET   ids of jobs that are not settled
-- KEYS[4] main      LIST
-- KEYS[5..14] p1 … p10  LIST
-- KEYS[15..] result  STR  for each job: what an earlier job of that id left
-- ARGV[1] name, ARGV[2] the schedule as it was read, ARGV[3] Redis's time by which it was decided, ARGV[4] level
-- ARGV[5] the schedule as it goes on, ARGV[6] when it is looked at then
-- ARGV[7] id of its last job if that must not be alive, else ''; ARGV[8], ARGV[9] as ARGV[5], ARGV[6] where it is alive
-- ARGV[10..] for each job: id, message
-- returns 1 ticked | 2 the last job is alive | 0 another was first, or changed it | -1 decided by a time that is not now
--
-- Whoever comes second, a repetition after a lost reply too, finds another schedule than it has read. At maxmemory the
-- first write is refused, before any change, and the tick is late.
local periodic, entries, jobs, name, level = KEYS[1], KEYS[2], KEYS[3], ARGV[1], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local look = redis.call('ZSCORE', periodic, name)
if not look or redis.call('HGET', entries, name) ~= ARGV[2] then return 0 end
if tonumber(look) > now or tonumber(ARGV[3]) > now or tonumber(ARGV[3]) < now - 10000 then return -1 end
for _, list in ipairs({ KEYS[4], KEYS[4 + level] }) do
  local kind = redis.call('TYPE', list).ok
  if kind ~= 'list' and kind ~= 'none' then return redis.error_reply('WRONGTYPE a waiting list holds a ' .. kind) end
end
if ARGV[7] ~= '' and redis.call('SISMEMBER', jobs, ARGV[7]) == 1 then
  redis.call('ZADD', periodic, ARGV[9], name)
  redis.call('HSET', entries, name, ARGV[8])
  return 2
end
redis.call('ZADD', periodic, ARGV[6], name)
redis.call('HSET', entries, name, ARGV[5])
for i = 10, #ARGV, 2 do
  if redis.call('SADD', jobs, ARGV[i]) == 1 then
    redis.call('DEL', KEYS[10 + i / 2])
    redis.call('LPUSH', KEYS[4 + level], ARGV[i + 1])
  end
end
if #ARGV > 9 and level > 0 and redis.call('LLEN', KEYS[4]) == 0 then redis.call('LPUSH', KEYS[4], '') end
return 1
