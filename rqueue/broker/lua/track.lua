-- track: a running job's record (STARTED, progress) is written while its worker owns it.
--
-- KEYS[1] processing  LIST  what this worker has claimed
-- KEYS[2] result      STR   the job's record, with a TTL
-- KEYS[3] workers     ZSET  worker -> end of its lease
-- KEYS[4] started     SET   ids of the worker's jobs that have started
-- ARGV[1] message, the exact bytes that were claimed
-- ARGV[2] record
-- ARGV[3] seconds to keep it ('0' not at all)
-- ARGV[4] worker, ARGV[5] id: of a job that was settled before it started (acks_late=False), which is in no list; else ''
-- returns 1 written | 0 the claim was lost: another worker owns the job now, or it has ended
local processing, result, workers, started = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if ARGV[4] ~= '' then
  if not redis.call('ZSCORE', workers, ARGV[4]) then return 0 end
  if redis.call('SISMEMBER', started, ARGV[5]) == 0 then return 0 end
else
  if redis.call('TYPE', processing).ok ~= 'list' then return 0 end
  if not redis.call('LPOS', processing, ARGV[1], 'RANK', -1) then return 0 end
end
if ARGV[3] ~= '0' then redis.call('SET', result, ARGV[2], 'EX', ARGV[3]) end
redis.pcall('PUBLISH', result, ARGV[2]) -- an ACL may forbid it
return 1
