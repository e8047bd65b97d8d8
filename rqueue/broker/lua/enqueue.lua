-- enqueue: a producer's batch becomes waiting or scheduled jobs, once.
--
-- KEYS[1] jobs       SET   ids of jobs that are not settled
-- KEYS[2] scheduled  ZSET  id -> due time in ms
-- KEYS[3] messages   HASH  id -> message of the scheduled jobs
-- KEYS[4] sent       HASH  lane -> sequence number and outcome of the producer's last batch in it
-- KEYS[5] main       LIST
-- KEYS[6..15] p1 … p10  LIST
-- KEYS[16..] result  STR  for each job whose id the caller chose: what an earlier job of that id left; where there are
--         such, the last key is stops, ZSET: what must not run
-- ARGV[1] lane, ARGV[2] sequence number, ARGV[3] seconds to remember the outcome
-- ARGV[4..] for each job: id, '1' if the caller chose the id, level, due, message
--           due: '' now | '+ms' from now | 'ms' since the epoch
-- returns for each job '1' (enqueued), '0' (the id is alive: harmless) or '2' (not enqueued: a stop is left of an
--         earlier job of that id; forget it first)
--
-- A batch whose reply was lost is sent again under its number: it gets the first answer and changes nothing. So does
-- the first sending when it arrives after the second. At maxmemory the first write is refused, before any change.
local jobs, scheduled, messages, sent = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local lane, number = ARGV[1], tonumber(ARGV[2])
local last = redis.call('HGET', sent, lane)
if last then
  local seen, outcome = string.match(last, '^(%d+) (%d*)$')
  if tonumber(seen) >= number then return outcome end
end
for level = 0, 10 do
  local kind = redis.call('TYPE', KEYS[5 + level]).ok
  if kind ~= 'list' and kind ~= 'none' then return redis.error_reply('WRONGTYPE a waiting list holds a ' .. kind) end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ids, waiting, outcome, soonest, token, result = {}, {}, {}, false, false, 15
local stops = #KEYS > 15 and redis.call('EXISTS', KEYS[#KEYS]) == 1 and KEYS[#KEYS]
local function many(command, key, values) -- unpack takes 7,999 at most
  for i = 1, #values, 5000 do redis.call(command, key, unpack(values, i, math.min(i + 4999, #values))) end
end
for i = 4, #ARGV, 5 do
  local id, level, due, message = ARGV[i], tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4]
  local fresh = 1
  if ARGV[i + 1] == '1' then
    fresh, result = redis.call('SADD', jobs, id), result + 1
    local is_stopped = fresh == 1 and stops and redis.call('ZSCORE', stops, 'job:' .. id)
    if is_stopped then fresh = 1 + redis.call('SREM', jobs, id) end
    if fresh == 1 then redis.call('DEL', KEYS[result]) end
  else
    ids[#ids + 1] = id
  end
  outcome[#outcome + 1] = fresh
  if fresh == 1 and due ~= '' then
    due = string.sub(due, 1, 1) == '+' and now + tonumber(due) or tonumber(due)
    waiting[-1] = waiting[-1] or {}
    table.insert(waiting[-1], { due, id, message })
  elseif fresh == 1 then
    waiting[level] = waiting[level] or {}
    table.insert(waiting[level], message)
  end
end
many('SADD', jobs, ids)
for level, batch in pairs(waiting) do
  if level >= 0 then
    many('LPUSH', KEYS[5 + level], batch)
    token = token or level > 0
  end
end
if waiting[-1] then
  local first = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')[2]
  soonest = tonumber(first) or math.huge
  for _, job in ipairs(waiting[-1]) do
    redis.call('ZADD', scheduled, string.format('%.0f', job[1]), job[2])
    redis.call('HSET', messages, job[2], job[3])
    token = token or job[1] < soonest
  end
end
if token and redis.call('LLEN', KEYS[5]) == 0 then redis.call('LPUSH', KEYS[5], '') end
outcome = table.concat(outcome)
redis.call('HSET', sent, lane, string.format('%.0f', number) .. ' ' .. outcome)
redis.call('EXPIRE', sent, ARGV[3])
return outcome
