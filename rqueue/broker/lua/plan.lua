-- plan: a periodic schedule is added, changed, paused or removed, if nobody else has changed it meanwhile.
--
-- KEYS[1] periodic  ZSET  name -> when it is looked at next, in ms; a paused one is not in it
-- KEYS[2] entries   HASH  name -> the schedule
-- ARGV[1] name, ARGV[2] the schedule as it was read, '' for none, ARGV[3] as it is to be, '' for none
-- ARGV[4] when it is looked at next, '' for never
-- returns 1 done, now or by an earlier sending | 0 it was changed meanwhile
local periodic, entries, name = KEYS[1], KEYS[2], ARGV[1]
local stored = redis.call('HGET', entries, name) or ''
if stored ~= ARGV[2] and stored ~= ARGV[3] then return 0 end
if ARGV[4] == '' then
  redis.call('ZREM', periodic, name)
else
  redis.call('ZADD', periodic, ARGV[4], name)
end
if ARGV[3] == '' then
  redis.call('HDEL', entries, name)
else
  redis.call('HSET', entries, name, ARGV[3])
end
return 1
