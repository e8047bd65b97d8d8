-- declare: what is paused in the whole namespace is written down, for queues that come into use later.
--
-- KEYS[1] paused  HASH  all | queue:<name> | task:<name> -> since when, in ms
-- ARGV[1] what
-- returns 1 it is written down now | 0 it was already
local paused = KEYS[1]
redis.call('HDEL', paused, '') -- writes nothing, and lets a full Redis accept what follows
local time = redis.call('TIME')
return redis.call('HSETNX', paused, ARGV[1], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
