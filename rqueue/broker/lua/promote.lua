-- promote: scheduled jobs that are due go to their lists.
--
-- KEYS[1] scheduled  ZSET  id -> due time in ms
-- KEYS[2] messages   HASH  id -> message of the scheduled jobs
-- KEYS[3] main       LIST
-- KEYS[4..13] p1 … p10  LIST
-- KEYS[14] stops     ZSET  what must not run
-- ARGV[1] how many at most, so that Redis is never held for long
-- returns {how many moved, ms until the next is due or -1}
--
-- A cancelled job goes to p10, where only claims look: a block does not know of stops.
local scheduled, messages, main = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREM', scheduled, '') -- writes nothing, and lets a full Redis accept what follows
local due, token, moved = redis.call('ZRANGEBYSCORE', scheduled, '-inf', now, 'LIMIT', 0, ARGV[1]), false, 0
local stops = #due > 0 and redis.call('EXISTS', KEYS[14]) == 1 and KEYS[14]
for _, id in ipairs(due) do
  local message = redis.call('HGET', messages, id)
  local level = message and tonumber(string.match(message, '^1 (%d+) ')) or 0
  if level > 10 then level = 0 end -- no message, for whoever claims it to bury: no other key is written
  if stops and redis.call('ZSCORE', stops, 'job:' .. id) then level = 10 end
  -- Where somebody put something else in a list's place, its jobs stay scheduled, and the others go on.
  if not message or type(redis.pcall('LPUSH', KEYS[3 + level], message)) == 'number' then
    redis.call('ZREM', scheduled, id)
    redis.call('HDEL', messages, id)
    moved, token = moved + 1, token or level > 0
  end
end
if token and redis.call('EXISTS', main) == 0 then redis.call('LPUSH', main, '') end
local soonest = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')[2]
return { moved, soonest and math.max(0, math.min(soonest - now, 1e15)) or -1 }
