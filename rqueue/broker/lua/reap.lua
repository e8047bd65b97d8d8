-- reap: messages of a dead worker go back to their lists; when none is left, the worker is no more.
--
-- KEYS[1] processing  LIST  what the dead worker had claimed; becomes the tombstone, a string
-- KEYS[2] workers     ZSET  worker -> end of its lease
-- KEYS[3] started     SET
-- KEYS[4] settled     HASH
-- KEYS[5] card        STR
-- KEYS[6] main        LIST
-- KEYS[7..16] p1 … p10  LIST
-- KEYS[17] jobs       SET   ids of jobs that are not settled, or run though they are
-- KEYS[18] stops      ZSET  what must not run
-- ARGV[1] worker
-- ARGV[2..] for each message, the last claimed first: the bytes in the list, level, the bytes as they go on
-- returns -1 the worker is alive | 1 nothing is left: it is gone | 0 call again with what is left
--
-- Two reapers, or one that comes back, do no harm: only the one that finds a message moves it. The entry in workers
-- goes in the same step as the last message, and a string takes the list's place: a blocking pop of the dead worker
-- that is still at the server, or on its way, gets WRONGTYPE and pops nothing. A cancelled job goes to p10, and what a
-- pause left at the end that is read stays in front, as in release.
local processing, workers, main, worker = KEYS[1], KEYS[2], KEYS[6], ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('ZSCORE', workers, worker)
if lease and tonumber(lease) > now then return -1 end
if redis.call('TYPE', processing).ok == 'list' then
  for i = 2, #ARGV, 3 do
    local kind = redis.call('TYPE', KEYS[6 + tonumber(ARGV[i + 1])]).ok
    if kind ~= 'list' and kind ~= 'none' then return redis.error_reply('WRONGTYPE a waiting list holds a ' .. kind) end
  end
  redis.call('LREM', processing, 0, '')
  local token, tokens, stops = false, 0, redis.call('EXISTS', KEYS[18]) == 1 and KEYS[18]
  local p10 = stops and redis.call('TYPE', KEYS[16]).ok
  while stops and redis.pcall('LINDEX', main, -1) == '' do
    redis.call('RPOP', main)
    tokens = tokens + 1
  end
  for i = 2, #ARGV, 3 do
    local level = tonumber(ARGV[i + 1])
    if redis.call('LREM', processing, 1, ARGV[i]) == 1 then
      local id = string.match(ARGV[i], '^1 %S+ %d+ %d+ %d+ (%S+) ') or ''
      redis.call('SREM', KEYS[3], id)
      if (p10 == 'list' or p10 == 'none') and redis.call('ZSCORE', stops, 'job:' .. id) then level = 10 end
      redis.call('RPUSH', KEYS[6 + level], ARGV[i + 2])
      token = token or level > 0
    end
  end
  for _ = 1, tokens do redis.call('RPUSH', main, '') end
  if token and redis.call('EXISTS', main) == 0 then redis.call('LPUSH', main, '') end
  if redis.call('EXISTS', processing) == 1 then return 0 end
end
redis.call('ZREM', workers, worker)
-- What is marked as started and was in no list had been settled before its start (acks_late=False): it ends here.
for _, id in ipairs(redis.call('SMEMBERS', KEYS[3])) do redis.call('SREM', KEYS[17], id) end
redis.call('DEL', KEYS[3], KEYS[4], KEYS[5])
redis.call('SET', processing, 'reaped', 'EX', 86400)
return 1
