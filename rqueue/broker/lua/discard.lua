-- discard: a dead letter is thrown away.
--
-- KEYS[1] dead     ZSET  id -> time of death in ms
-- KEYS[2] letters  HASH  id -> dead letter
-- ARGV[1..] ids
-- returns how many there were
local dead, letters = KEYS[1], KEYS[2]
redis.call('ZREM', dead, unpack(ARGV))
return redis.call('HDEL', letters, unpack(ARGV))
