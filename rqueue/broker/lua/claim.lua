-- claim: messages move from waiting lists to this worker's processing lists, highest priority first.
--
-- KEYS[1..] for each queue 14 keys: processing, workers, scheduled, main, p1 … p10
-- ARGV[1] worker, ARGV[2] lease in ms, ARGV[3] messages wanted, ARGV[4] bytes wanted
-- ARGV[5] which queue comes first among lists of the same rank: changes with every claim, so that none is starved
-- ARGV[6..] for each queue the rank of its main list
-- returns false, when the worker is not registered | {now, due, {queue, level, message, queue, level, message, …}}
--         due: ms until the first scheduled job of any queue, -1 when there is none
--
-- The lease is renewed in the step: a claim never belongs to a worker without one. A message without a header gets one
-- when it comes from a priority's list, so that it can go back there. A list that is none (somebody's string) is
-- passed over. What is left behind leaves a token in an empty main list, so that the next worker wakes.
local worker, lease, want, budget, first = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local queues, time, out = #KEYS / 14, redis.call('TIME'), {}
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due, some = -1, {}
for q = 0, queues - 1 do
  if not redis.call('ZSCORE', KEYS[q * 14 + 2], worker) then return false end
end
for q = 0, queues - 1 do
  local k = q * 14
  redis.call('LREM', KEYS[k + 1], 0, '') -- the token that a block took; a freeing write, so that a full Redis goes on
  redis.call('ZADD', KEYS[k + 2], now + lease, worker)
  local soonest = redis.call('ZRANGE', KEYS[k + 3], 0, 0, 'WITHSCORES')[2]
  if soonest and (due < 0 or soonest - now < due) then due = math.max(0, soonest - now) end
  some[q] = redis.call('EXISTS', unpack(KEYS, k + 5, k + 14)) > 0
end
local function take(q, level)
  local processing, list = KEYS[q * 14 + 1], KEYS[q * 14 + 4 + level]
  while want > 0 and budget > 0 do
    local message = redis.pcall('RPOPLPUSH', list, processing)
    if type(message) ~= 'string' then return end
    if message == '' then
      redis.call('LPOP', processing)
    else
      local object = level > 0 and string.match(message, '^%s*({.*)$')
      if object then
        message = '1 ' .. level .. ' 0 0 0 - ' .. object
        redis.call('LSET', processing, 0, message)
      end
      want, budget = want - 1, budget - #message
      out[#out + 1], out[#out + 2], out[#out + 3] = q, level, message
    end
  end
end
for level = 10, 1, -1 do
  for i = 0, queues - 1 do
    local q = (first + i) % queues
    if some[q] then take(q, level) end
    if tonumber(ARGV[6 + q]) == level then take(q, 0) end
  end
end
for q = 0, queues - 1 do
  local k, left = q * 14, false
  for level = 1, (want <= 0 or budget <= 0) and some[q] and 10 or 0 do
    local length = redis.pcall('LLEN', KEYS[k + 4 + level])
    left = left or (type(length) == 'number' and length > 0)
  end
  if left and redis.call('EXISTS', KEYS[k + 4]) == 0 then redis.call('LPUSH', KEYS[k + 4], '') end
end
return { now, due, out }
