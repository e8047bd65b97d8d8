-- track: a running job's record (STARTED, progress) is written while its worker owns it.
--
-- KEYS[1] processing  LIST  what this worker has claimed
-- KEYS[2] result      STR   the job's record, with a TTL
-- ARGV[1] message, the exact bytes that were claimed
-- ARGV[2] record
-- ARGV[3] seconds to keep it ('0' not at all)
-- returns 1 written | 0 the claim was lost: another worker owns the job now
local processing, result = KEYS[1], KEYS[2]
if redis.call('TYPE', processing).ok ~= 'list' then return 0 end
if not redis.call('LPOS', processing, ARGV[1], 'RANK', -1) then return 0 end
if ARGV[3] ~= '0' then redis.call('SET', result, ARGV[2], 'EX', ARGV[3]) end
redis.pcall('PUBLISH', result, ARGV[2]) -- an ACL may forbid it
return 1
