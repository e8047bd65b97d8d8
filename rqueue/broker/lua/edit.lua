-- edit: a dead letter's message is changed, and stays a dead letter of the same age.
--
-- KEYS[1] letters  HASH  id -> dead letter
-- ARGV[1] id, ARGV[2] the letter that was read, ARGV[3] the letter as it is to be
-- returns 1 changed | 0 the letter has gone or has changed
--
-- Sent again after its reply was lost it finds what it wrote itself, and says so.
local letters, id = KEYS[1], ARGV[1]
local stored = redis.call('HGET', letters, id)
if stored == ARGV[3] then return 1 end
if stored ~= ARGV[2] then return 0 end
redis.call('HDEL', letters, id)
redis.call('HSET', letters, id, ARGV[3])
return 1
