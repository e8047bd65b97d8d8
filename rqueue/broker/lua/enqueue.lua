-- enqueue: a producer's batch becomes waiting or scheduled jobs, once.
--
-- KEYS[1] jobs       SET   ids of jobs that are not settled
-- KEYS[2] sent       HASH  lane -> sequence number and outcome of the producer's last batch in it
-- KEYS[3] main       LIST
-- ARGV[1] lane, ARGV[2] sequence number, ARGV[3] seconds to remember the outcome
--
-- Where all jobs are plain (their ids are made by rqueue, they are due now, and they go to one list):
-- KEYS[4] p1 … p10   LIST  their list; none where it is main
-- ARGV[4..] the ids, then as many messages
--
-- Else:
-- KEYS[4..13] p1 … p10  LIST
-- KEYS[14] scheduled  ZSET  id -> due time in ms
-- KEYS[15] messages   HASH  id -> message of the scheduled jobs
-- KEYS[16..] result  STR  for each job whose id the caller chose: what an earlier job of that id left; where there are
--         such, the last key is stops, ZSET: what must not run
-- ARGV[4..] for each job: id, '1' if the caller chose the id, level, due, message
--           due: '' now | '+ms' from now | 'ms' since the epoch
--
-- returns for each job '1' (enqueued), '0' (the id is alive: harmless) or '2' (not enqueued: a stop is left of an
--         earlier job of that id; forget it first)
--
-- A batch whose reply was lost is sent again under its number: it gets the first answer and changes nothing. So does
-- the first sending when it arrives after the second. It renews the TTL of that memory all the same: a WAIT covers what
-- its connection has written, and to one that has written nothing it says yes at once, whoever has the first sending's
-- jobs. At maxmemory the first write is refused, before any change.
local jobs, sent, main = KEYS[1], KEYS[2], KEYS[3]
local lane, number = ARGV[1], tonumber(ARGV[2])
local last = redis.call('HGET', sent, lane)
if last then
  local seen, outcome = string.match(last, '^(%d+) (%d*)$')
  if seen and tonumber(seen) >= number then return redis.call('EXPIRE', sent, ARGV[3]) and outcome end
end
local function remember(outcome)
  redis.call('HSET', sent, lane, string.format('%.0f', number) .. ' ' .. outcome)
  redis.call('EXPIRE', sent, ARGV[3])
  return outcome
end
if #KEYS <= 4 then
  local count, most = (#ARGV - 3) / 2, 5000 -- unpack takes 7,999 at most
  local token = #KEYS == 4 and redis.call('LLEN', main) == 0 -- what is no list is refused here, or by the first write
  for i = 4 + count, #ARGV, most do
    redis.call('LPUSH', KEYS[#KEYS], unpack(ARGV, i, math.min(i + most - 1, #ARGV)))
  end
  for i = 4, 3 + count, most do
    local added = redis.pcall('SADD', jobs, unpack(ARGV, i, math.min(i + most - 1, 3 + count)))
    if type(added) == 'table' then -- refused: the messages are taken back, since the batch goes again in halves
      redis.call('LTRIM', KEYS[#KEYS], count, -1)
      return added
    end
  end
  if token then redis.call('LPUSH', main, '') end
  return remember(string.rep('1', count))
end
for i = 3, 13 do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'list' and kind ~= 'none' then return redis.error_reply('WRONGTYPE a waiting list holds a ' .. kind) end
end
local scheduled, messages, time = KEYS[14], KEYS[15], redis.call('TIME')
local now, outcome, token, result = time[1] * 1000 + math.floor(time[2] / 1000), {}, false, 15
local soonest = tonumber(redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')[2]) or math.huge
local stops = #KEYS > 15 and redis.call('EXISTS', KEYS[#KEYS]) == 1 and KEYS[#KEYS]
for i = 4, #ARGV, 5 do
  local id, level, due, message = ARGV[i], tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4]
  local fresh = redis.call('SADD', jobs, id)
  if ARGV[i + 1] == '1' then
    result = result + 1
    local is_stopped = fresh == 1 and stops and redis.call('ZSCORE', stops, 'job:' .. id)
    if is_stopped then fresh = 1 + redis.call('SREM', jobs, id) end
    if fresh == 1 then redis.call('DEL', KEYS[result]) end
  else
    fresh = 1
  end
  outcome[#outcome + 1] = fresh
  if fresh == 1 and due == '' then
    redis.call('LPUSH', KEYS[3 + level], message)
    token = token or level > 0
  elseif fresh == 1 then
    due = string.sub(due, 1, 1) == '+' and now + tonumber(due) or tonumber(due)
    redis.call('ZADD', scheduled, string.format('%.0f', due), id)
    redis.call('HSET', messages, id, message)
    token = token or due < soonest
  end
end
if token and redis.call('LLEN', main) == 0 then redis.call('LPUSH', main, '') end
return remember(table.concat(outcome))
