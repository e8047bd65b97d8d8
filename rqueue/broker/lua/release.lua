-- release: claimed jobs that have not started go back, uncharged and in their order.
--
-- KEYS[1] processing  LIST  what this worker has claimed
-- KEYS[2] started     SET   ids of the worker's claimed jobs that have started
-- KEYS[3] main        LIST
-- KEYS[4..13] p1 … p10  LIST
-- KEYS[14] stops     ZSET  what must not run
-- ARGV[1..] for each message, the last claimed first: message, id ('' for none), level
-- returns how many went back; those that are not in the list any more are another's, or were sent back before
--
-- Each goes to the end from which lists are read, so the first claimed is the next to be claimed. May be repeated.
-- A cancelled one goes to p10, where only claims look: a block does not know of stops.
-- The tokens that a pause left at that end stay in front: a blocking pop on its way must take one, and no job.
local processing, started, main = KEYS[1], KEYS[2], KEYS[3]
local back, token = 0, false
if redis.call('TYPE', processing).ok ~= 'list' then return 0 end
for i = 1, #ARGV, 3 do
  local kind = redis.call('TYPE', KEYS[3 + tonumber(ARGV[i + 2])]).ok
  if kind ~= 'list' and kind ~= 'none' then return redis.error_reply('WRONGTYPE a waiting list holds a ' .. kind) end
end
local tokens, stops = 0, redis.call('EXISTS', KEYS[14]) == 1 and KEYS[14]
local p10 = stops and redis.call('TYPE', KEYS[13]).ok
while stops and redis.pcall('LINDEX', main, -1) == '' do
  redis.call('RPOP', main)
  tokens = tokens + 1
end
for i = 1, #ARGV, 3 do
  local message, id, level = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  if (p10 == 'list' or p10 == 'none') and redis.call('ZSCORE', stops, 'job:' .. id) then level = 10 end
  if redis.call('LREM', processing, 1, message) == 1 then
    redis.call('RPUSH', KEYS[3 + level], message)
    redis.call('SREM', started, id)
    back, token = back + 1, token or level > 0
  end
end
for _ = 1, tokens do redis.call('RPUSH', main, '') end
if token and redis.call('EXISTS', main) == 0 then redis.call('LPUSH', main, '') end
return back
