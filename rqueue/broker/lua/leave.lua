-- leave: a worker that holds nothing goes, and its list refuses what may still be on its way.
--
-- KEYS[1] processing  LIST  becomes the tombstone, a string
-- KEYS[2] workers     ZSET  worker -> end of its lease
-- KEYS[3] started     SET
-- KEYS[4] settled     HASH
-- KEYS[5] card        STR
-- ARGV[1] worker
-- returns 1 gone | 0 it still holds messages: release them first
--
-- The tombstone: a blocking pop of this worker that is still at the server gets WRONGTYPE, pops nothing, and the next
-- waiting worker is served.
local processing, worker = KEYS[1], ARGV[1]
if redis.call('TYPE', processing).ok == 'list' then
  redis.call('LREM', processing, 0, '')
  if redis.call('EXISTS', processing) == 1 then return 0 end
end
redis.call('ZREM', KEYS[2], worker)
redis.call('DEL', KEYS[3], KEYS[4], KEYS[5])
redis.call('SET', processing, 'left', 'EX', 86400)
return 1
