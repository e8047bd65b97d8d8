-- spool: how jobs ended waits for the result store, as far as there is room.
--
-- KEYS[1] recorded    STR   there is a result store: how many bytes may wait for it; with a TTL
-- KEYS[2] spool       LIST  entries, the oldest first
-- KEYS[3] bytes       STR   the length of all of them
-- KEYS[4] unrecorded  STR   how many were not kept; with a TTL
-- ARGV[1] how many bytes may wait, from a worker with a store; '' from others, who do nothing where there is none
-- ARGV[2..] entries
-- returns how many were kept, the first ones | -1 there is no store
--
-- Sent again it keeps them twice, which does no harm: of the same row twice the store keeps one. At maxmemory it is
-- refused, before any change.
local recorded, spool, size, bound = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
if bound ~= '' then
  redis.call('SET', recorded, bound, 'EX', 86400)
else
  bound = redis.call('GET', recorded)
end
if not bound then return -1 end
local bytes, kept = tonumber(redis.call('GET', size)) or 0, 0
for i = 2, #ARGV do
  if bytes + #ARGV[i] > tonumber(bound) then break end -- the rest as well: what is kept is kept in order
  redis.call('RPUSH', spool, ARGV[i])
  bytes, kept = bytes + #ARGV[i], kept + 1
end
if kept > 0 then redis.call('SET', size, bytes) end
local lost = #ARGV - 1 - kept
if lost > 0 then redis.call('SET', KEYS[4], (tonumber(redis.call('GET', KEYS[4])) or 0) + lost, 'EX', 604800) end
return kept
