-- unpark: parked jobs of a task that was paused are due at once, in the order in which they are named.
--
-- KEYS[1] scheduled  ZSET  id -> due time in ms; a parked job's is no whole number
-- KEYS[2] main       LIST
-- ARGV[1..] for each job: id, how many ms ago it was due, so that the order stays
-- returns how many were parked
local scheduled, main, moved = KEYS[1], KEYS[2], 0
redis.call('ZREM', scheduled, '') -- writes nothing, and lets a full Redis accept what follows
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, #ARGV, 2 do
  local due = tonumber(redis.call('ZSCORE', scheduled, ARGV[i]) or 0)
  if due % 1 ~= 0 then
    redis.call('ZADD', scheduled, 'XX', string.format('%.0f', now - tonumber(ARGV[i + 1])), ARGV[i])
    moved = moved + 1
  end
end
local kind = redis.call('TYPE', main).ok
if moved > 0 and kind == 'none' then redis.call('LPUSH', main, '') end
return moved
