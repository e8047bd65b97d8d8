-- unspool: what was written to the result store leaves the spool, and what is next in it is told.
--
-- KEYS[1] recorded  STR   there is a result store: how many bytes may wait for it; with a TTL
-- KEYS[2] spool     LIST  entries, the oldest first
-- KEYS[3] bytes     STR   the length of all of them
-- KEYS[4] lock      STR   the worker that is at it; with a TTL
-- ARGV[1] worker, ARGV[2] for how many ms nobody else shall be at it, ARGV[3] how many bytes may wait
-- ARGV[4] how many entries to tell at most, 0 for none; ARGV[5] how many bytes of them, but one in any case
-- ARGV[6..] entries as they were told, in their order, that were written since
-- returns false when another worker is at it | the next entries
--
-- May be repeated, and done by two at once: both begin at the oldest one, so what is not the oldest any more was taken
-- away by the other.
local recorded, spool, size, lock, freed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], 0
redis.call('LTRIM', spool, 0, -1) -- writes nothing, and lets a full Redis accept what follows
redis.call('SET', recorded, ARGV[3], 'EX', 86400)
for i = 6, #ARGV do
  if redis.call('LINDEX', spool, 0) == ARGV[i] then
    redis.call('LPOP', spool)
    freed = freed + #ARGV[i]
  end
end
local holder = redis.call('GET', lock)
if redis.call('EXISTS', spool) == 0 then
  redis.call('DEL', size)
  if holder == ARGV[1] then redis.call('DEL', lock) end
  return {}
end
if freed > 0 then redis.call('SET', size, (tonumber(redis.call('GET', size)) or freed) - freed) end
if ARGV[4] == '0' then return {} end
if holder and holder ~= ARGV[1] then return false end
redis.call('SET', lock, ARGV[1], 'PX', ARGV[2])
local found, bytes = {}, 0
for at = 0, tonumber(ARGV[4]) - 1 do
  local entry = redis.call('LINDEX', spool, at)
  if not entry then break end
  bytes = bytes + #entry
  if at > 0 and bytes > tonumber(ARGV[5]) then break end
  found[at + 1] = entry
end
return found
