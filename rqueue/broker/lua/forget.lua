-- forget: the stop of a job that has ended goes, and what its cancel left in a long list: the id is free again.
--
-- KEYS[1] jobs     SET   ids of jobs that are not settled
-- KEYS[2] stops    ZSET  what must not run
-- KEYS[3] workers  ZSET  worker -> end of its lease
-- KEYS[4] main     LIST
-- KEYS[5..14] p1 … p10  LIST
-- KEYS[15..] for each worker that is named: processing LIST
-- ARGV[1] id, ARGV[2..] the workers
-- returns 1 forgotten | 0 there is no such stop, or a job of that id is alive, and its stop stays
--         | -1 there are other workers by now: name them, and call again
--
-- May be repeated. The lists are read as a whole, in small pages: only one who meets such a stop pays for it.
local stops, id, known = KEYS[2], ARGV[1], {}
for i = 2, #ARGV do known[ARGV[i]] = true end
for _, worker in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  if not known[worker] then return -1 end
end
if redis.call('SISMEMBER', KEYS[1], id) == 1 or redis.call('ZREM', stops, 'job:' .. id) == 0 then return 0 end
for i = 4, #KEYS do
  local list, left = KEYS[i], {}
  local length = redis.pcall('LLEN', list) -- a tombstone, or somebody's string, is none
  for at = 0, type(length) == 'number' and length - 1 or -1, 16 do
    for _, message in ipairs(redis.call('LRANGE', list, at, at + 15)) do
      if string.match(message, '^1 %S+ %d+ %d+ %d+ (%S+) ') == id then left[#left + 1] = message end
    end
  end
  for _, message in ipairs(left) do redis.call('LREM', list, 1, message) end
end
return 1
