-- renew: a worker says that it is alive, for all its queues at once.
--
-- KEYS[1..] for each queue: workers ZSET, the worker's card STR
-- ARGV[1] worker, ARGV[2] lease in ms, ARGV[3] what the worker says of itself
-- returns Redis's time in ms | 0 it is not registered (any more) in one of them: it must go on under a new id
local worker, lease = ARGV[1], tonumber(ARGV[2])
for i = 1, #KEYS, 2 do
  if not redis.call('ZSCORE', KEYS[i], worker) then return 0 end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, #KEYS, 2 do
  redis.call('DEL', KEYS[i + 1]) -- a freeing write first: a full Redis must not condemn its workers
  redis.call('ZADD', KEYS[i], now + lease, worker)
  redis.call('SET', KEYS[i + 1], ARGV[3], 'PX', 3 * lease)
end
return now
