-- adopt: a claimed message without an id gets one, before anything is written under it.
--
-- KEYS[1] processing  LIST  what this worker has claimed
-- KEYS[2] workers     ZSET  worker -> end of its lease
-- KEYS[3] jobs        SET   ids of jobs that are not settled
-- ARGV[1] worker
-- ARGV[2..] for each message: the bytes as claimed, the bytes with the id, the id
-- returns false, when the worker is not registered | one character for each message:
--         '1' adopted | '2' dropped: a job of that id is alive | '0' not in the list: another's now
--
-- If the reply is lost, the worker forgets these messages, and its audit finds them under their new bytes.
local processing, workers, jobs = KEYS[1], KEYS[2], KEYS[3]
if not redis.call('ZSCORE', workers, ARGV[1]) then return false end
local out = {}
redis.call('LREM', processing, 0, '') -- a freeing write first, so that a full Redis goes on
for i = 2, #ARGV, 3 do
  local claimed, message, id = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local found = 0
  if redis.call('LPOS', processing, claimed) then
    found = redis.call('SADD', jobs, id) == 1 and 1 or 2
    if found == 1 then redis.call('LINSERT', processing, 'BEFORE', claimed, message) end
    redis.call('LREM', processing, 1, claimed)
  end
  out[#out + 1] = found
end
return table.concat(out)
