-- claim: messages move from waiting lists to this worker's processing lists, highest priority first.
--
-- KEYS[1..] for each queue 15 keys: processing, workers, scheduled, main, p1 … p10, stops
-- ARGV[1] worker, ARGV[2] lease in ms, ARGV[3] messages wanted, ARGV[4] bytes wanted
-- ARGV[5] which queue comes first among lists of the same rank: changes with every claim, so that none is starved
-- ARGV[6..] for each queue the rank of its main list
-- returns false, when the worker is not registered | {now, due, {queue, level, {messages}, queue, level, …}, stops}
--         due: ms until the first scheduled job of any queue, -1 when there is none
--         stops: for each queue that has some {queue, 1 if it is paused, {paused tasks}, {ids of these that are revoked}}
--
-- The lease is renewed in the step: a claim never belongs to a worker without one. A message without a header gets one
-- when it comes from a priority's list, so that it can go back there. A list that is none (somebody's string) is
-- passed over, and so is what is no schedule; a queue whose stops cannot be read is paused. What is left behind leaves
-- a token in an empty main list, so that the next worker wakes.
-- EXISTS counts a key as often as it is named: one command tells whether there are priorities, and whether stops.
local worker, lease, want, budget, first = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local queues, time, out, due, some, stops, paused = #KEYS / 15, redis.call('TIME'), {}, -1, {}, {}, {}
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for q = 0, queues - 1 do
  if not redis.call('ZSCORE', KEYS[q * 15 + 2], worker) then return false end
end
for q = 0, queues - 1 do
  local k = q * 15
  redis.call('LREM', KEYS[k + 1], 0, '') -- the token that a block took; a freeing write, so that a full Redis goes on
  redis.call('ZADD', KEYS[k + 2], now + lease, worker)
  local soonest = redis.pcall('ZRANGE', KEYS[k + 3], 0, 0, 'WITHSCORES')[2]
  if soonest and (due < 0 or soonest - now < due) then due = math.max(0, math.min(soonest - now, 1e15)) end
  local s, names = KEYS[k + 15], { unpack(KEYS, k + 5, k + 15) }
  for i = 12, 21 do names[i] = s end
  local found = redis.call('EXISTS', unpack(names))
  some[q] = found % 11 > 0
  local tasks = found >= 11 and redis.pcall('ZRANGEBYLEX', s, '[task:', '(task;')
  paused[q] = tasks and (tasks.err or redis.call('ZSCORE', s, 'queue') or redis.call('ZSCORE', s, 'all'))
  if tasks then stops[#stops + 1] = { q, paused[q] and 1 or 0, tasks.err and {} or tasks, {} } end
end
local function take(q, level)
  local processing, list, taken, n = KEYS[q * 15 + 1], KEYS[q * 15 + 4 + level], {}, 0
  while want > 0 and budget > 0 and not paused[q] do
    local message = redis.pcall('RPOPLPUSH', list, processing)
    if type(message) ~= 'string' then break end
    if message == '' then
      redis.call('LPOP', processing)
    else
      local object = level > 0 and string.match(message, '^%s*({.*)$')
      message = object and '1 ' .. level .. ' 0 0 0 - ' .. object or message
      if object then redis.call('LSET', processing, 0, message) end
      want, budget, n, taken[n + 1] = want - 1, budget - #message, n + 1, message
    end
  end
  if n > 0 then out[#out + 1], out[#out + 2], out[#out + 3] = q, level, taken end
end
for level = 10, 1, -1 do
  for i = 0, queues - 1 do
    local q = (first + i) % queues
    if some[q] then take(q, level) end
    if tonumber(ARGV[6 + q]) == level then take(q, 0) end
  end
end
for q = 0, queues - 1 do
  local k, left = q * 15, false
  for level = 1, not paused[q] and (want <= 0 or budget <= 0) and some[q] and 10 or 0 do
    local length = redis.pcall('LLEN', KEYS[k + 4 + level])
    left = left or (type(length) == 'number' and length > 0)
  end
  if left and redis.call('EXISTS', KEYS[k + 4]) == 0 then redis.call('LPUSH', KEYS[k + 4], '') end
end
for _, stop in ipairs(stops) do
  for i = 1, #out, 3 do
    for _, message in ipairs(out[i] == stop[1] and out[i + 2] or {}) do
      local id = string.match(message, '^1 %S+ %d+ %d+ %d+ (%S+) ')
      if id and redis.call('ZSCORE', KEYS[stop[1] * 15 + 15], 'job:' .. id) then table.insert(stop[4], id) end
    end
  end
end
return { now, due, out, stops }
